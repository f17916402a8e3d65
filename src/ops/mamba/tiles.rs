//! How the channels and tokens of the selective scan are shared among invocations. Pure.

/// How one workgroup stores the states of its channels, and how many tokens it processes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    /// Channels per workgroup.
    pub channels: usize,
    /// Invocations that the states of a channel are split over.
    pub lanes: usize,
    /// States per invocation, in groups of four.
    pub rows4: usize,
    /// Tokens in workgroup memory at a time, a multiple of four.
    pub tile: usize,
}

impl Tiles {
    /// Chooses tiles for `states` states per channel and `channels` channels per group: as many invocations per channel as
    /// keep the loads of a token's b and c shared by many channels.
    pub(super) fn new(states: usize, channels: usize, decode: bool) -> Self {
        let fours = states.div_ceil(4).next_power_of_two();
        let rows4 = (fours / 8).clamp(1, 4);
        let lanes = fours / rows4;
        let (most, tile) = match (fours, lanes) {
            (_, 1 | 2) => (64, 16),
            (4, _) => (32, 16),
            (8 | 16, _) => (32, 8),
            (32, _) => (16, 8),
            _ => (16, 4),
        };
        let tile = if decode { 4 } else { tile };
        Self { channels: channels.next_power_of_two().clamp(8, most), lanes, rows4, tile }
    }

    /// Number of states per channel that there is room for.
    pub(super) fn states(&self) -> usize {
        4 * self.lanes * self.rows4
    }

    pub(super) fn invocations(&self) -> usize {
        self.channels * self.lanes
    }

    /// Groups of four tokens of a tile.
    pub(super) fn quads(&self) -> usize {
        self.tile / 4
    }

    /// Bytes of workgroup memory of the output kernel.
    #[cfg(test)]
    fn workgroup_bytes(&self) -> usize {
        let stride = self.quads() + 1;
        let tokens = 2 * self.channels * stride + 2 * self.tile * self.states() / 4;
        16 * tokens.max(self.invocations() * stride)
    }

    pub(super) fn consts(&self) -> Vec<(&'static str, u32)> {
        vec![
            ("CHANNELS", self.channels as u32),
            ("LANES", self.lanes as u32),
            ("ROWS4", self.rows4 as u32),
            ("TILE", self.tile as u32),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::Tiles;

    #[test]
    fn tiles_fit_a_portable_workgroup_at_every_number_of_states() {
        for states in 1..=256 {
            for channels in [1, 8, 9, 64, 1000] {
                let tiles = Tiles::new(states, channels, false);
                assert!(tiles.states() >= states && tiles.states() < 2 * states.max(4), "{tiles:?}");
                assert!(tiles.channels * tiles.lanes <= 256 && tiles.workgroup_bytes() <= 16384, "{tiles:?}");
            }
        }
    }
}
