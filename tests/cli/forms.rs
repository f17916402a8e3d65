//! Forms in which models ask for a recurrence, through files and flags.

use super::*;
