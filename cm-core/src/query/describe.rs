//! Declarations as lines `key = value`, to show how two of them differ. Contents and secrets are left out.

use std::collections::BTreeMap;

use serde_json::Value;
use units::kind::Spec;

/// Keys whose values are milliseconds.
const TIMES: [&str; 9] = [
    "stop-timeout",
    "start-timeout",
    "reload-timeout",
    "restart-delay",
    "restart-max",
    "healthy",
    "watchdog",
    "timeout",
    "device-timeout",
];
/// Keys that are octal numbers.
const OCTAL: [&str; 2] = ["mode", "umask"];
/// Keys that are shown in other ways, or that nobody wrote.
const HIDDEN: [&str; 4] = ["content", "path", "name", "entries"];
/// Keys whose values never print.
const SECRET: [&str; 1] = ["password-hash"];

/// Whether the values of a unit are kept out of plans and diffs.
pub fn is_secret(spec: &Spec) -> bool {
    match spec {
        Spec::Service(s) => s.secret,
        Spec::File(f) => f.secret,
        _ => false,
    }
}

/// Keys and values of a declaration; without those that are not set.
fn values(spec: &Spec) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let Ok(Value::Object(variant)) = serde_json::to_value(spec) else { return out };
    for value in variant.into_values() {
        let Value::Object(fields) = value else { continue };
        for (key, value) in fields {
            match value {
                Value::Object(inner) if key == "attributes" => {
                    for (key, value) in inner {
                        add(&mut out, &key, &value);
                    }
                }
                value => add(&mut out, &key, &value),
            }
        }
    }
    out
}

fn add(out: &mut BTreeMap<String, String>, key: &str, value: &Value) {
    let key = key.replace('_', "-");
    if HIDDEN.contains(&key.as_str()) || value.is_null() {
        return;
    }
    let shown = match value {
        Value::Array(list) if list.is_empty() => return,
        Value::Number(n) if OCTAL.contains(&key.as_str()) => {
            format!("\"{:04o}\"", n.as_u64().unwrap_or_default())
        }
        Value::Number(n) if TIMES.contains(&key.as_str()) => format!("\"{n}ms\""),
        Value::Number(n) if key == "stop-signal" => signal(n),
        // A choice with something in it, such as a reload by signal or by command.
        Value::Object(choice) if choice.len() == 1 => match choice.iter().next() {
            Some((name, Value::Number(n))) if name == "Signal" => signal(n),
            Some((name, inner)) if key == "ready" => {
                let inner = inner.as_str().map_or_else(|| inner.to_string(), str::to_owned);
                format!("\"{}={inner}\"", name.to_lowercase())
            }
            Some((_, inner)) => inner.to_string(),
            None => return,
        },
        other => other.to_string(),
    };
    out.insert(key, shown);
}

fn signal(number: &serde_json::Number) -> String {
    let known = number.as_i64().and_then(|n| i32::try_from(n).ok());
    known.map_or_else(|| number.to_string(), |n| format!("{:?}", units::value::signal::format(n)))
}

/// How two declarations differ, a line a value; empty when they do not, or only in what is not shown here.
pub fn differing(old: Option<&Spec>, new: Option<&Spec>) -> String {
    let secret = old.is_some_and(is_secret) || new.is_some_and(is_secret);
    let (before, after) = (old.map(values).unwrap_or_default(), new.map(values).unwrap_or_default());
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut out = String::new();
    for key in keys {
        let (a, b) = (before.get(key), after.get(key));
        if a == b {
            continue;
        }
        for (sign, value) in [('-', a), ('+', b)] {
            let Some(value) = value else { continue };
            let shown = if secret || SECRET.contains(&key.as_str()) { "secret: not shown" } else { value };
            out.push_str(&format!("{sign}{key} = {shown}\n"));
        }
    }
    out
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
            "-ready = \"path=/run/a\"\n+ready = \"fd=3\"\n-reload = \"HUP\"\n+reload = [\"a\",\"-r\"]\n\
             -stop-signal = \"TERM\"\n+stop-signal = \"INT\"\n"
        );
    }

    #[test]
    fn values_are_shown_as_they_are_written() {
        let old = spec("[service.a]\nexec = [\"a\"]\nstop-timeout = \"3s\"\n");
        let new = spec("[service.a]\nexec = [\"a\", \"b\"]\nstop-timeout = \"4s\"\n");
        assert_eq!(
            differing(Some(&old), Some(&new)),
            "-exec = [\"a\"]\n+exec = [\"a\",\"b\"]\n-stop-timeout = \"3000ms\"\n+stop-timeout = \"4000ms\"\n"
        );
        let (old, new) = (spec("[file.\"/a\"]\nmode = \"0600\"\n"), spec("[file.\"/a\"]\nmode = \"0644\"\n"));
        assert_eq!(differing(Some(&old), Some(&new)), "-mode = \"0600\"\n+mode = \"0644\"\n");
    }

    #[test]
    fn secrets_never_print() {
        let old = spec("[service.a]\nexec = [\"a\"]\nsecret = true\nenvironment = { KEY = \"hush\" }\n");
        let new = spec("[service.a]\nexec = [\"a\"]\nsecret = true\nenvironment = { KEY = \"other\" }\n");
        assert_eq!(
            differing(Some(&old), Some(&new)),
            "-environment = secret: not shown\n+environment = secret: not shown\n"
        );
        let user = |hash: &str| spec(&format!("[user.a]\npassword-hash = \"{hash}\"\n"));
        let shown = differing(Some(&user("$6$one")), Some(&user("$6$two")));
        assert!(!shown.contains("$6$") && shown.contains("password-hash"), "{shown}");
        assert!(!differing(None, Some(&user("$6$one"))).contains("$6$"));
    }
}
