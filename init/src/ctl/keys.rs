//! `explain service.exec`: what a key of the language means, from the table that checks it. Pure.

use units::Kind;
use units::field::{Field, Table, Without, table};

use super::exit::Stop;
use super::render::style::{Paint, Style};

/// Words at the top of a state file that are no kinds.
pub const WORDS: [&str; 4] = ["vars", "include", "holdfast", "use"];

/// The page of one of [`WORDS`].
pub fn word(word: &'static str, style: Style) -> String {
    let text = match word {
        "vars" => {
            "strings, integers and booleans under names of their own\n  \
             `${vars.name}` in any value stands for one of them, `$${` is a literal `${`\n  \
             names of units, as in [file.\"/etc/motd\"], and keys take no variables: write them out\n\n\
             [vars]\nsite = \"example.org\"\n\n[file.\"/etc/motd\"]\ncontent = \"this is ${vars.site}\\n\"\n"
        }
        "include" => {
            "further state files\n  \
             paths are relative to the file that says them; the last part may be a pattern, and match nothing\n\n\
             include = [\"conf.d/*.toml\", \"site.toml\"]\n"
        }
        "use" => "reserved for later versions of the language; nothing may stand under it\n",
        _ => "the version of the language; may stand first\n\nholdfast = 1\n",
    };
    format!("{}: {text}", word.bold(style))
}

/// The page of a kind, or of one key.
///
/// # Errors
/// [`Stop::Usage`] for a key that the kind does not have.
pub fn page(kind: Kind, key: Option<&str>, style: Style) -> Result<String, Stop> {
    let table = table(kind);
    match key {
        None => Ok(overview(table, style)),
        Some(key) => match table.field(key) {
            Some(field) => Ok(one(table, field, style)),
            None => {
                let keys: Vec<_> = table.keys().collect();
                let text = match units::nearest::nearest(key, keys.iter().copied()) {
                    Some(near) => format!("did you mean {kind}.{near}?"),
                    None => format!("it has {}", keys.join(", ")),
                };
                Err(Stop::Usage(format!("{kind} has no key {key}; {text}")))
            }
        },
    }
}

/// What a word that names no kind may have been meant to be: `servce`, `servce.exce`, `requires`.
pub fn nearest(word: &str) -> Option<String> {
    // Of a key that several kinds have, that of services is what most people mean.
    let services_first = std::iter::once(Kind::Service).chain(Kind::ALL);
    if let Some(kind) = services_first.into_iter().find(|kind| table(*kind).field(word).is_some()) {
        return Some(format!("{kind}.{word}"));
    }
    let (kind, key) = word.split_once('.').map_or((word, None), |(kind, key)| (kind, Some(key)));
    let words = Kind::ALL.map(Kind::word).into_iter().chain(WORDS);
    let near = if Kind::from_word(kind).is_some() { kind } else { units::nearest::nearest(kind, words)? };
    let Some(kind) = Kind::from_word(near) else { return Some(near.to_owned()) };
    let table = table(kind);
    let Some(key) = key.filter(|k| !k.is_empty()) else { return Some(kind.word().to_owned()) };
    let known = table.keys().find(|k| *k == key).or_else(|| units::nearest::nearest(key, table.keys()));
    Some(known.map_or_else(|| kind.word().to_owned(), |key| format!("{kind}.{key}")))
}

fn without(field: &Field) -> String {
    match field.default {
        Without::Required => "required".to_owned(),
        Without::Is(value) => format!("default {value}"),
        Without::Unset(words) => format!("without: {words}"),
    }
}

fn one(table: &Table, field: &Field, style: Style) -> String {
    let name = format!("{}.{}", table.kind, field.key);
    let measure = match field.value.measure() {
        "" => String::new(),
        unit => format!(" ({unit})"),
    };
    format!(
        "{}: {}\n  takes {}{measure}\n  {}\n",
        name.bold(style),
        field.doc,
        field.value.expected(),
        without(field)
    )
}

fn overview(table: &Table, style: Style) -> String {
    let mut text = format!("{}\n{}\n", table.header.bold(style), table.summary);
    text.push_str("The name takes no variables; values do (initctl explain vars).\n\n");
    let fields: Vec<_> = table.keys().filter_map(|k| table.field(k)).collect();
    let width = fields.iter().map(|f| f.key.len()).max().unwrap_or_default();
    for field in fields {
        text.push_str(&format!("  {:width$}  {} ({})\n", field.key, field.doc, without(field)));
    }
    for part in [table.notes, table.example] {
        if !part.is_empty() {
            text.push_str(&format!("\n{}\n", part.trim_end()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_page() {
        for kind in Kind::ALL {
            let overview = page(kind, None, Style::Plain).unwrap();
            for key in table(kind).keys() {
                assert!(overview.contains(key));
                assert!(page(kind, Some(key), Style::Plain).unwrap().starts_with(&format!("{kind}.{key}: ")));
            }
        }
        let stop = page(Kind::Service, Some("exce"), Style::Plain).unwrap_err();
        assert!(stop.to_string().contains("did you mean service.exec?"), "{stop}");
        let stop = page(Kind::Service, Some("colour"), Style::Plain).unwrap_err();
        assert!(stop.to_string().contains("it has exec, "), "{stop}");
    }

    #[test]
    fn a_page_says_where_variables_stand() {
        assert!(
            word("vars", Style::Plain)
                .contains("names of units, as in [file.\"/etc/motd\"], and keys take no")
        );
        assert!(page(Kind::File, None, Style::Plain).unwrap().contains("The name takes no variables"));
        assert!(WORDS.iter().all(|w| word(w, Style::Plain).starts_with(&format!("{w}: "))));
    }

    /// What is shown as an example is one.
    #[test]
    fn the_example_of_vars_compiles() {
        let page = word("vars", Style::Plain);
        let text = page.split_once("\n\n").unwrap().1.to_owned();
        let mut loader = units::load::MemoryLoader::new().file("s", text);
        assert!(units::compile("s", &mut loader).manifest.is_some());
    }

    #[test]
    fn a_slip_in_a_kind_is_seen() {
        for (word, near) in [
            ("servce", Some("service")),
            ("vasr", Some("vars")),
            ("servce.exce", Some("service.exec")),
            ("fil.colour", Some("file")),
            ("requires", Some("service.requires")),
            ("content", Some("file.content")),
            ("nginx", None),
            ("nginx.conf", None),
        ] {
            assert_eq!(nearest(word).as_deref(), near, "{word}");
        }
    }
}
