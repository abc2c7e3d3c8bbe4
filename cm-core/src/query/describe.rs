//! Declarations as the lines `key = value` that a person wrote, to show how two of them differ. What was not said is not
//! shown, nor what is as it would be anyway; contents are shown in other ways, and secrets not at all.

use std::collections::BTreeMap;

use serde_json::Value;
use units::field::{Field, Type, Without, table};
use units::kind::Spec;
use units::kind::service::{Limit, Ready};
use units::manifest::{EdgeKind, flags};
use units::value::{bytes, duration, limit, mode, ready, signal};
use units::{Kind, Manifest, UnitId};

/// Keys whose values never print.
const SECRET: [&str; 1] = ["password-hash"];

/// Keys and values in the order of the reference pages.
type Lines = Vec<(&'static str, String)>;

/// What stands for what is secret.
pub const HIDDEN: &str = "secret: not shown";

/// Whether the values of a unit are kept out of plans and diffs.
pub fn is_secret(spec: &Spec) -> bool {
    match spec {
        Spec::Service(s) => s.secret,
        Spec::File(f) => f.secret,
        _ => false,
    }
}

/// A basic string of TOML, which takes every escape that JSON makes.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quoted(name) }
}

/// `OnDemand` as `on-demand`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn array<'v>(values: impl Iterator<Item = &'v Value>) -> String {
    let list: Vec<String> = values.map(Value::to_string).collect();
    format!("[{}]", list.join(", "))
}

fn inline_table(pairs: impl Iterator<Item = (String, String)>) -> String {
    let list: Vec<String> =
        pairs.map(|(name, value)| format!("{} = {}", key(&name), quoted(&value))).collect();
    format!("{{ {} }}", list.join(", "))
}

/// A pair of an environment, or of extended attributes, whose values are bytes.
fn pair(value: &Value) -> Option<(String, String)> {
    let [name, value] = value.as_array()?.as_slice() else { return None };
    let text = match value {
        Value::Array(bytes) => {
            let bytes = bytes.iter().filter_map(|b| u8::try_from(b.as_u64()?).ok());
            String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
        }
        other => other.as_str()?.to_owned(),
    };
    Some((name.as_str()?.to_owned(), text))
}

/// A checked value as it is written.
fn written(of: Type, value: &Value) -> Option<String> {
    let number = || value.as_u64();
    let signal = |v: &Value| Some(quoted(&signal::format(i32::try_from(v.as_i64()?).ok()?)));
    match (of, value) {
        (_, Value::Null) => None,
        (_, Value::Array(list)) if list.is_empty() => None,
        (Type::Duration, _) => Some(quoted(&duration::format(number()?))),
        (Type::Bytes, _) => Some(quoted(&bytes::format(number()?))),
        (Type::Mode, _) => Some(quoted(&mode::format(u32::try_from(number()?).ok()?))),
        (Type::Signal, _) => signal(value),
        (Type::Reload, Value::Object(how)) => match how.iter().next()? {
            (_, Value::Array(words)) => Some(array(words.iter())),
            (_, number) => signal(number),
        },
        (Type::Ready, _) => {
            serde_json::from_value::<Ready>(value.clone()).ok().map(|r| quoted(&ready::format(&r)))
        }
        (Type::Choice(_), Value::String(word)) => Some(quoted(&kebab(word))),
        (Type::Table, Value::Array(pairs)) => Some(inline_table(pairs.iter().filter_map(pair))),
        (Type::Limits, _) => {
            let limits: Vec<Limit> = serde_json::from_value(value.clone()).ok()?;
            Some(inline_table(limits.into_iter().map(|l| (l.resource, limit::format(l.soft, l.hard)))))
        }
        (_, Value::Array(list)) => Some(array(list.iter())),
        (_, other) => Some(other.to_string()),
    }
}

/// What holds without a key, as it would be written.
fn default(field: &Field, exited: bool) -> Option<String> {
    let text = match (field.key, field.default) {
        // What is ready by its end is ready when it likes, and is not run again because of that.
        ("start-timeout", _) if exited => "0",
        ("restart", _) if exited => "on-failure",
        (_, Without::Is(text)) => text,
        (_, Without::Required | Without::Unset(_)) => return None,
    };
    match field.value {
        Type::Duration => Some(quoted(&duration::format(duration::parse(text).ok()?))),
        Type::Bytes => Some(quoted(&bytes::format(bytes::parse(text).ok()?))),
        Type::Mode => Some(quoted(&mode::format(mode::parse(text).ok()?))),
        Type::Signal => Some(quoted(&signal::format(signal::parse(text).ok()?))),
        Type::Flag | Type::Integer { .. } => Some(text.to_owned()),
        _ => Some(quoted(text)),
    }
}

/// What a specification says, beside contents.
fn said(spec: &Spec) -> Lines {
    let Ok(Value::Object(variant)) = serde_json::to_value(spec) else { return Lines::new() };
    let Some((name, Value::Object(mut fields))) = variant.into_iter().next() else { return Lines::new() };
    let Some(kind) = Kind::from_word(&kebab(&name)) else { return Lines::new() };
    if let Some(Value::Object(attributes)) = fields.remove("attributes") {
        fields.extend(attributes);
    }
    let exited = matches!(spec, Spec::Service(s) if s.ready == Ready::Exited);
    let shown = |field: &'static Field| {
        let value = fields.get(&field.key.replace('-', "_")).filter(|_| field.key != "content")?;
        let value = written(field.value, value)?;
        (default(field, exited).as_ref() != Some(&value)).then_some((field.key, value))
    };
    table(kind).fields.iter().filter_map(shown).collect()
}

/// What a unit says beside its specification.
fn around(manifest: &Manifest, id: UnitId) -> Lines {
    let mut out = Lines::new();
    let kinds = [
        EdgeKind::Requires,
        EdgeKind::Binds,
        EdgeKind::Wants,
        EdgeKind::After,
        EdgeKind::ReloadOn,
        EdgeKind::RestartOn,
    ];
    for kind in kinds {
        // An edge with a reason is one that nobody wrote.
        let edges = manifest.deps(id).filter(|e| e.kind == kind && e.reason.is_empty());
        let names: Vec<Value> = edges.map(|e| manifest.address(e.unit).to_string().into()).collect();
        if !names.is_empty() {
            out.push((kind.word(), array(names.iter())));
        }
    }
    let unit = manifest.unit(id);
    if !unit.description.is_empty() {
        out.push(("description", quoted(unit.description)));
    }
    for (bit, key, word) in
        [(flags::REPORT, "drift", "report"), (flags::KEEP_ON_REMOVAL, "on-removal", "keep")]
    {
        if unit.flags & bit != 0 {
            out.push((key, quoted(word)));
        }
    }
    let settle = quoted(&duration::format(u64::from(unit.settle)));
    let usual = units::field::COMMON.iter().find(|f| f.key == "settle").and_then(|f| default(f, false));
    if usual.is_some_and(|usual| usual != settle) {
        out.push(("settle", settle));
    }
    out
}

/// The lines that are not the same, and the keys that they are of; only those where all of it is secret.
fn compared(before: &Lines, after: &Lines, secret: bool) -> (String, Vec<&'static str>) {
    let of = |lines: &Lines| lines.iter().cloned().collect::<BTreeMap<&'static str, String>>();
    let (was, is) = (of(before), of(after));
    let mut keys: Vec<&'static str> = after.iter().map(|(key, _)| *key).collect();
    keys.extend(before.iter().map(|(key, _)| *key).filter(|key| !is.contains_key(key)));
    keys.retain(|key| was.get(key) != is.get(key));
    if secret && !keys.is_empty() {
        return (format!("{HIDDEN} ({})\n", keys.join(", ")), keys);
    }
    let mut out = String::new();
    for key in &keys {
        for (sign, value) in [('-', was.get(key)), ('+', is.get(key))] {
            let Some(value) = value else { continue };
            let shown = if SECRET.contains(key) { HIDDEN } else { value };
            out.push_str(&format!("{sign}{key} = {shown}\n"));
        }
    }
    (out, keys)
}

/// How two specifications differ, a line a value; empty when they do not, or only in what is not shown here.
pub fn differing(old: Option<&Spec>, new: Option<&Spec>) -> String {
    let secret = old.is_some_and(is_secret) || new.is_some_and(is_secret);
    compared(&old.map(said).unwrap_or_default(), &new.map(said).unwrap_or_default(), secret).0
}

/// How two units differ, edges and all, and in which keys.
pub fn units(
    old: Option<(&Manifest, UnitId)>,
    new: Option<(&Manifest, UnitId)>,
) -> (String, Vec<&'static str>) {
    let spec = |side: Option<(&Manifest, UnitId)>| side.and_then(|(m, id)| m.spec(id));
    let (a, b) = (spec(old), spec(new));
    let secret = a.as_ref().is_some_and(is_secret) || b.as_ref().is_some_and(is_secret);
    let lines = |spec: Option<&Spec>| spec.map(said).unwrap_or_default();
    let (mut text, mut keys) = compared(&lines(a.as_ref()), &lines(b.as_ref()), secret);
    let beside = |side: Option<(&Manifest, UnitId)>| side.map(|(m, id)| around(m, id)).unwrap_or_default();
    let (more, others) = compared(&beside(old), &beside(new), false);
    text.push_str(&more);
    keys.extend(others);
    (text, keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::load::MemoryLoader;

    fn spec(text: &str) -> Spec {
        let mut loader = MemoryLoader::new().file("s", text);
        let manifest = units::compile::compile("s", &mut loader).manifest.unwrap();
        manifest.spec(units::UnitId(0)).unwrap()
    }

    #[test]
    fn choices_are_shown_as_they_are_written() {
        let old = spec("[service.a]\nexec = [\"a\"]\nreload = \"HUP\"\nready = \"path=/run/a\"\n");
        let new = spec(
            "[service.a]\nexec = [\"a\"]\nreload = [\"a\", \"-r\"]\nready = \"fd=3\"\nstop-signal = \"INT\"\n",
        );
        assert_eq!(
            differing(Some(&old), Some(&new)),
            "-ready = \"path=/run/a\"\n+ready = \"fd=3\"\n+stop-signal = \"INT\"\n\
             -reload = \"HUP\"\n+reload = [\"a\", \"-r\"]\n"
        );
    }

    #[test]
    fn values_are_shown_as_they_are_written() {
        let old = spec("[service.a]\nexec = [\"a\"]\nstop-timeout = \"3s\"\n");
        let new = spec("[service.a]\nexec = [\"a\", \"b\"]\nstop-timeout = \"4s\"\n");
        assert_eq!(
            differing(Some(&old), Some(&new)),
            "-exec = [\"a\"]\n+exec = [\"a\", \"b\"]\n-stop-timeout = \"3s\"\n+stop-timeout = \"4s\"\n"
        );
        let (old, new) = (spec("[file.\"/a\"]\nmode = \"0600\"\n"), spec("[file.\"/a\"]\nmode = \"0644\"\n"));
        assert_eq!(differing(Some(&old), Some(&new)), "-mode = \"0600\"\n+mode = \"0644\"\n");
    }

    /// What is shown is a state file that says the same: no word of ours, no value that nobody gave.
    #[test]
    fn a_new_unit_is_shown_as_what_was_written() {
        let text = r#"[service.a]
exec = ["a"]
ready = "exited"
groups = ["adm"]
environment = { KEY = "a b", "odd.name" = "c" }
umask = "0077"
limits = { nofile = "1K:2K" }
nice = -5
log = "console"
log-size = "1M"
reload = ["a", "-r"]
restart-delay = "1m30s"
start = "on-demand"
success = [3]
"#;
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let written: Vec<String> = lines(text).split_off(1).iter().map(|l| format!("+{l}")).collect();
        assert_eq!(lines(&differing(None, Some(&spec(text)))), written);
        let plain = spec("[service.a]\nexec = [\"a\"]\nrestart = \"always\"\nstop-timeout = \"10s\"\n");
        assert_eq!(differing(None, Some(&plain)), "+exec = [\"a\"]\n");
        assert_eq!(
            differing(None, Some(&spec("[directory.\"/a\"]\nmode = \"1777\"\n"))),
            "+mode = \"1777\"\n"
        );
        assert_eq!(
            differing(None, Some(&spec("[sysctl.\"kernel.panic\"]\nvalue = 3\n"))),
            "+value = \"3\"\n"
        );
    }

    #[test]
    fn edges_are_shown_as_far_as_somebody_wrote_them() {
        let text = "[service.a]\nexec = [\"a\"]\nreload-on = [\"file:/x/y\"]\nwants = [\"service:b\"]\n\
                    description = \"A.\"\n[service.b]\nexec = [\"b\"]\n[directory.\"/x\"]\n[file.\"/x/y\"]\n\
                    drift = \"report\"\nsettle = \"1s\"\n";
        let mut loader = MemoryLoader::new().file("s", text);
        let manifest = units::compile::compile("s", &mut loader).manifest.unwrap();
        let shown = |address: &str| {
            let address = units::Address::parse(address).unwrap();
            super::units(None, manifest.find(address.kind, &address.name).map(|id| (&manifest, id)))
        };
        let (service, keys) = shown("service:a");
        assert_eq!(
            service,
            "+exec = [\"a\"]\n+wants = [\"service:b\"]\n+reload-on = [\"file:/x/y\"]\n+description = \"A.\"\n"
        );
        assert_eq!(keys, ["exec", "wants", "reload-on", "description"]);
        assert_eq!(shown("file:/x/y").0, "+drift = \"report\"\n+settle = \"1s\"\n");
    }

    #[test]
    fn secrets_never_print() {
        let old = spec("[service.a]\nexec = [\"a\"]\nsecret = true\nenvironment = { KEY = \"hush\" }\n");
        let new = spec("[service.a]\nexec = [\"a\"]\nsecret = true\nenvironment = { KEY = \"other\" }\n");
        assert_eq!(differing(Some(&old), Some(&new)), "secret: not shown (environment)\n");
        let user = |hash: &str| spec(&format!("[user.a]\npassword-hash = \"{hash}\"\n"));
        let shown = differing(Some(&user("$6$one")), Some(&user("$6$two")));
        assert!(!shown.contains("$6$") && shown.contains("password-hash"), "{shown}");
        assert!(!differing(None, Some(&user("$6$one"))).contains("$6$"));
    }
}

#[cfg(test)]
#[path = "describe_tests.rs"]
mod round_trip;
