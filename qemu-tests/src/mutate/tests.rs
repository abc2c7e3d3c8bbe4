use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

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
    assert_eq!(
        changes("X", "n < 3"),
        ["n < 3 → n <= 3", "n < 3 → n != 3", "n < 3 → n >= 3", "3 → 4", "3 → 2"]
    );
    assert_eq!(changes("X", "n == m"), ["n == m → n != m"]);
    assert_eq!(changes("X", "n + m"), ["n + m → n - m"]);
    assert_eq!(changes("()", "n += m;"), ["without n += m;", "n += m → n -= m"]);
    assert_eq!(changes("X", "STABLE_MS"), ["STABLE_MS → (STABLE_MS * 2)", "STABLE_MS → (STABLE_MS / 2)"]);
}

#[test]
fn yes_and_no() {
    assert_eq!(changes("X", "a && b"), ["a && b → (a) || (b)", "a && b → a", "a && b → b"]);
    assert_eq!(changes("X", "!a"), ["!a → a"]);
    assert_eq!(changes("X", "true"), ["true → false"]);
    assert_eq!(changes("X", "x.is_some()"), ["x.is_some() → .is_none(…)"]);
    assert_eq!(changes("X", "x.filter(|v| *v)"), ["*v → true", "*v → false"]);
    assert_eq!(changes("X", "Some(n)"), ["Some(n) → None"]);
}

#[test]
fn conditions() {
    assert_eq!(changes("X", "if a { x } else { y }"), ["a → true", "a → false"]);
    // A `let` cannot be replaced, but what stands beside it can, and it can fail as a whole.
    assert_eq!(
        changes("X", "if a && let Some(x) = y { x } else { y }"),
        ["a && let Some(x) = y → false", "a → true"]
    );
    assert_eq!(changes("()", "while a { x.pop(); }"), ["a → true", "a → false", "without x.pop();"]);
    assert_eq!(changes("X", "let Some(x) = y else { return 7 }; x"), ["y → None", "7 → 8", "7 → 6"]);
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
    let source = "fn f(a: bool) {\n    if !a {\n        g(3);\n    }\n}\n";
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
            at(4, "!a → a"),
            at(5, "without g(3);"),
            at(6, "3 → 4"),
            at(7, "3 → 2"),
        ]
    );
    let schema = write(source, &sites, 1, &BTreeSet::from([3, 6]), "m");
    assert_eq!(
        schema.text,
        "fn f(a: bool) { if m::is(1) { return ; }\n    \
         if (if m::is(2) { true } else if m::is(4) { a } else { !a }) {\n        \
         if m::is(5) {} else { g((if m::is(7) { 2 } else { 3 })); }\n    }\n}\n"
    );
    // An error is somebody's fault.
    let blame = |text: &str| {
        let start = schema.text.find(text).expect("there");
        schema.to_blame(&(start..start + text.len()))
    };
    assert_eq!(blame("{ a }"), [4]);
    assert_eq!(blame("{ !a }"), [2, 4]);
    assert_eq!(blame("g("), [5]);
    assert_eq!(blame("2 }"), [7]);
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
    assert_eq!(of("n < 10 → true"), Some("5 30"));
    assert_eq!(of("without found = Some(*n);"), Some("none none"));
    assert_eq!(of("without the arm Some(_)"), Some("5 none"));
    // Two that are equal to each other change nothing here: `<=` where the same comes twice is one.
    assert_eq!(of("f <= *n → f < *n"), Some("5 many"));
}
