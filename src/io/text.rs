//! Text for messages: names and errors from untrusted files, on one line, short, and harmless to a terminal.

/// Whether a terminal obeys this character instead of showing it: control characters, those that turn the direction of
/// writing, and the separators of lines and paragraphs.
pub(crate) const fn hidden(c: char) -> bool {
    matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Messages quote names and parser errors from untrusted files. This keeps them on one line and readable.
pub(super) fn one_line(message: &str) -> String {
    const MOST: usize = 600;
    let mut out = String::new();
    for (i, c) in message.chars().enumerate() {
        if i == MOST {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\r' | '\t' => out.extend(c.escape_default()),
            c if hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// A tensor's name for a message, shortened if it is long.
pub(super) fn quoted(name: &str) -> String {
    const MOST: usize = 80;
    let (name, rest) = match name.char_indices().nth(MOST) {
        Some((at, _)) => (&name[..at], "…"),
        None => (name, ""),
    };
    format!("`{}{rest}`", one_line(name))
}

/// Axis lengths for a message.
pub(super) fn shown<T: std::fmt::Display>(shape: &[T]) -> String {
    let axes: Vec<String> = shape.iter().take(super::MAX_RANK).map(T::to_string).collect();
    format!("[{}{}]", axes.join(", "), if shape.len() > super::MAX_RANK { ", …" } else { "" })
}
