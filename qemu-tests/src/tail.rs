//! The end of a long output, for people.

/// Most lines that are shown.
const LINES: usize = 60;

/// The last lines, with equal ones in succession made one, and how many lines there were before them.
pub fn of(text: &str) -> String {
    let mut folded: Vec<(&str, usize)> = Vec::new();
    for line in text.lines() {
        match folded.last_mut() {
            Some((last, times)) if *last == line => *times += 1,
            _ => folded.push((line, 1)),
        }
    }
    let left_out = folded.len().saturating_sub(LINES);
    let before: usize = folded.iter().take(left_out).map(|(_, times)| times).sum();
    let mut out = if before > 0 { vec![format!("    … {before} lines before these")] } else { Vec::new() };
    out.extend(folded.iter().skip(left_out).map(|(line, times)| match times {
        1 => (*line).to_owned(),
        n => format!("{line} ({n} times)"),
    }));
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_are_one_and_the_last_are_shown() {
        assert_eq!(of("a\nb\nb\nb\na\n"), "a\nb (3 times)\na");
        let long: String = (0..100).map(|n| format!("line {n}\nsame\nsame\n")).collect();
        let shown = of(&long);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), LINES + 1);
        assert_eq!((lines[0], lines[1]), ("    … 210 lines before these", "line 70"));
        assert_eq!(lines.last(), Some(&"same (2 times)"));
    }
}
