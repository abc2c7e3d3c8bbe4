use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::report::is_like;
use super::schema::write;
use super::sites::find;

/// How a function with this body and result can be written otherwise, in the order in which that stands.
fn changes(result: &str, body: &str) -> Vec<String> {
    let source = format!("fn f(a: bool, b: bool, n: u32) -> {result} {{\n{body}\n}}\n");
    let sites = find(&source).expect("Rust");
    // What the whole function could be is tested by itself.
    let whole = |c: &String| !c.starts_with("the whole function");
    sites.into_iter().flat_map(|s| s.others).map(|o| o.change).filter(whole).collect()
}

#[test]
fn comparisons_and_arithmetic() {
    assert_eq!(changes("X", "n < 3"), ["n < 3 → n <= 3", "n < 3 → n != 3", "3 → 4"]);
    assert_eq!(changes("X", "n == m"), ["n == m → n != m"]);
    assert_eq!(changes("X", "n + m"), ["n + m → n - m"]);
    assert_eq!(changes("()", "n += m;"), ["without n += m;"]);
    assert_eq!(changes("X", "STABLE_MS"), ["STABLE_MS → (STABLE_MS * 2)"]);
}

#[test]
fn yes_and_no() {
    assert_eq!(changes("X", "a && b"), ["a && b → a", "a && b → b", "a && b → false"]);
    assert_eq!(changes("X", "!a"), ["!a → a"]);
    assert_eq!(changes("X", "true"), ["true → false"]);
    assert_eq!(changes("X", "x.is_some()"), ["x.is_some() → .is_none(…)"]);
    assert_eq!(changes("X", "x.filter(|v| *v)"), ["*v → true", "*v → false"]);
    assert_eq!(changes("X", "Some(n)"), ["Some(n) → None"]);
}

#[test]
fn conditions() {
    assert_eq!(changes("X", "if a { x } else { y }"), ["a → true", "a → false"]);
    assert_eq!(changes("X", "if a || b { x } else { y }"), ["a || b → a", "a || b → b", "a || b → true"]);
    // What breaks whenever another one does is not tried: the opposite, and a constant beside a neighbour.
    assert_eq!(
        changes("X", "if n < m { x } else { y }"),
        ["n < m → false", "n < m → n <= m", "n < m → n != m"]
    );
    assert_eq!(
        changes("X", "if !x.is_some() { x } else { y }"),
        ["!x.is_some() → true", "!x.is_some() → false"]
    );
    // A `let` cannot be replaced, but what stands beside it can, and it can fail as a whole.
    assert_eq!(
        changes("X", "if a && let Some(x) = y { x } else { y }"),
        ["a && let Some(x) = y → false", "a → true"]
    );
    assert_eq!(changes("()", "while a { x.pop(); }"), ["a → true", "a → false", "without x.pop();"]);
    assert_eq!(changes("X", "let Some(x) = y else { return 7 }; x"), ["y → None", "7 → 8"]);
}

#[test]
fn what_can_be_left_out() {
    assert_eq!(changes("()", "x.push(y);\nlog();"), ["without x.push(y);", "without log();"]);
    // The value of a block cannot.
    assert_eq!(changes("X", "log();\nx.get(y)"), ["without log();"]);
    assert_eq!(changes("()", "if a { return; }"), ["a → true", "a → false", "without return;"]);
    assert_eq!(
        changes("()", "match x { A => f(x), B => {} }"),
        ["without match x { A => f(x), B => {} }", "without f(x)"]
    );
    // Whoever stands before an arm for everything else could be missing.
    assert_eq!(
        changes("X", "match x { A => y, B if a => z, _ => w }"),
        ["without the arm A", "a → true", "a → false"]
    );
    assert_eq!(
        changes("X", "matches!(x, A | B)"),
        ["matches!(x, A | B): without A", "matches!(x, A | B): without B"]
    );
}

#[test]
fn whole_functions() {
    let of = |result: &str| -> Vec<String> {
        let source = format!("fn f() -> {result} {{ x }}");
        find(&source).expect("Rust").into_iter().flat_map(|s| s.others).map(|o| o.text).collect()
    };
    assert_eq!(of("bool"), ["return true;", "return false;"]);
    assert_eq!(of("Option<u8>"), ["return None;"]);
    assert_eq!(of("Vec<u8>"), ["return Default::default();"]);
    assert_eq!(of("&str"), ["return \"\";"]);
    assert!(of("Engine").is_empty());
}

#[test]
fn what_is_no_code_that_ships_has_no_mutants() {
    let none = |source: &str| assert_eq!(find(source).expect("Rust"), [], "{source}");
    none("const N: u32 = 3 + 4;");
    none("const fn f() -> bool { true }");
    none("#[cfg(test)]\nmod tests { fn f() -> bool { true } }");
    none("#[test]\nfn f() { assert!(true && false); }");
    none("struct S { of: [u8; 4] }\nenum E { A = 3 }");
    none("impl Display for S { fn fmt(&self) -> bool { true } }");
}

#[test]
fn a_schema_is_the_source_with_something_around_it() {
    let source = "fn f(a: bool) {\n    if !a {\n        g(3, 4);\n    }\n    h();\n}\n";
    let sites = find(source).expect("Rust");
    let numbered: Vec<(u32, String)> =
        (1..).zip(sites.iter().flat_map(|s| &s.others).map(|o| o.change.clone())).collect();
    let at = |n: u32, change: &str| (n, change.to_owned());
    assert_eq!(
        numbered,
        [
            at(1, "the whole function → nothing"),
            at(2, "!a → true"),
            at(3, "!a → false"),
            at(4, "without g(3, 4);"),
            at(5, "3 → 4"),
            at(6, "4 → 5"),
            at(7, "without h();"),
        ]
    );
    let schema = write(source, &sites, 1, &BTreeSet::from([3, 5]), "m");
    assert_eq!(
        schema.text,
        "fn f(a: bool) { if m::is(1) { return ; }\n    \
         if (if m::is(2) { true } else { !a }) {\n        \
         if m::is(4) {} else { g(3, (if m::is(6) { 5 } else { 4 })); }\n    }\n    \
         if m::is(7) {} else { h(); }\n}\n"
    );
    // An error is somebody's fault.
    let blame = |text: &str| {
        let start = schema.text.find(text).expect("there");
        schema.to_blame(&(start..start + text.len()))
    };
    assert_eq!(blame("{ true }"), [2]);
    assert_eq!(blame("{ !a }"), [2]);
    assert_eq!(blame("g("), [4]);
    assert_eq!(blame("5 }"), [6]);
    assert!(blame("fn f").is_empty());
}

/// With everything in it a program compiles, is what it was, and is each of its mutants.
#[test]
fn every_mutant_is_what_it_says() {
    let source = "\
fn least(all: &[u32], most: u32) -> Option<u32> {
    let mut found = None;
    for n in all {
        if *n > most || found.is_some_and(|f| f <= *n) {
            continue;
        }
        found = Some(*n);
    }
    found
}

fn told(least: Option<u32>) -> String {
    match least {
        Some(n) if n < 10 => format!(\"{n}\"),
        Some(_) => \"many\".to_owned(),
        _ => \"none\".to_owned(),
    }
}
";
    let sites = find(source).expect("Rust");
    let schema = write(source, &sites, 1, &BTreeSet::new(), "m");
    let rest = "
mod m {
    pub fn is(n: u32) -> bool { std::env::var(\"MUTANT\").is_ok_and(|m| m == n.to_string()) }
}
fn main() {
    println!(\"{} {}\", told(least(&[12, 7, 5, 9, 5], 8)), told(least(&[30, 31], 30)));
}
";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("snippet.rs");
    std::fs::write(&file, schema.text + rest).expect("written");
    let program = folder.path().join("snippet");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let done = Command::new(rustc)
        .args(["--edition", "2024", "-A", "warnings", "-o"])
        .args([&program, &file])
        .output()
        .expect("rustc");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let says = |program: &Path, number: u32| {
        let done = Command::new(program).env("MUTANT", number.to_string()).output().expect("it runs");
        String::from_utf8(done.stdout).expect("text").trim().to_owned()
    };
    assert_eq!(says(&program, 0), "5 many");
    let said: Vec<(String, String)> = (1..)
        .zip(sites.iter().flat_map(|s| &s.others))
        .map(|(number, other)| (other.change.clone(), says(&program, number)))
        .collect();
    let of = |change: &str| said.iter().find(|(c, _)| c == change).map(|(_, s)| s.as_str());
    assert_eq!(of("the whole function → None"), Some("none none"));
    assert_eq!(of("f <= *n → true"), Some("7 many"));
    assert_eq!(of("*n > most || found.is_some_and(|f| f <= *n) → true"), Some("none none"));
    assert_eq!(of("*n > most → *n >= most"), Some("5 none"));
    assert_eq!(of("n < 10 → false"), Some("many many"));
    assert_eq!(of("n < 10 → n != 10"), Some("5 30"));
    assert_eq!(of("without found = Some(*n);"), Some("none none"));
    assert_eq!(of("without the arm Some(_)"), Some("5 none"));
    // Where the same comes twice it is one either way.
    assert_eq!(of("f <= *n → f < *n"), Some("5 many"));
}

#[test]
fn patterns_of_arguments() {
    assert!(is_like("a.rs f: *", "a.rs f: x → y"));
    assert!(is_like("* f: without *push(*);", "a.rs f: without x.push(y);"));
    assert!(is_like("*", ""));
    assert!(is_like("same", "same"));
    assert!(!is_like("same", "the same"));
    assert!(!is_like("a.rs f: *", "a.rs g: x"));
    assert!(!is_like("*x*y", "yx"));
    // Nothing stands for two of them.
    assert!(!is_like("ab*ba", "aba"));
}
