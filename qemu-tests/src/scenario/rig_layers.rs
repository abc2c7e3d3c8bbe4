//! Generations of several layers in the fast rig: each is replaced alone, and what one hides comes back with its end.

use super::Scenario;
use crate::Result;
use crate::context::Context;
use crate::rig::{Rig, Said, Setup, holds, want, word};

const fn scenario(name: &'static str, run: fn(&Context) -> Result) -> Scenario {
    Scenario { name, group: "rig", limit: super::minutes(3), run }
}

/// See the module.
pub const ALL: &[Scenario] = &[
    scenario("rig-layers", layers),
    scenario("rig-layers-image", of_an_image),
    scenario("rig-layers-part", parts),
    scenario("rig-layers-race", race),
];

const MAIN: &str = r#"
[vars]
who = "main"

[file."/srv/a"]
content = "main a\n"

[file."/srv/b"]
content = "${vars.who} b\n"

[service.sleeper]
exec = ["sleep", "infinity"]
"#;

const DROPIN: &str = r#"
[file."/srv/a"]
content = "dropin a\n"
override = true

[file."/srv/c"]
source   = "c.conf"
requires = ["service:sleeper"]
"#;

const LOCAL: &str = r#"
[vars]
who = "local"

[file."/srv/a"]
content = "local a\n"
override = true

[file."/srv/d"]
content = "local d\n"
"#;

/// What initctl says to the words, with a state file of this text.
fn asked(rig: &Rig, name: &str, text: &str, words: &[&str]) -> Result<Said> {
    let path = rig.state_file(name, text)?;
    rig.initctl(&[words, &[path.as_str()]].concat())
}

/// Applies a state as a layer.
fn apply(rig: &Rig, layer: &str, text: &str) -> Result<String> {
    let said = asked(rig, &format!("{}.toml", layer.replace(':', "-")), text, &["apply", "--layer", layer])?;
    want(said.code == 0, &format!("apply of layer {layer}: {}\n{}{}", said.code, said.out, said.err), rig)?;
    Ok(said.out)
}

/// What lies below the managed directory: `name=first word` of each file that is there.
fn managed(rig: &Rig) -> Result<String> {
    let mut out = Vec::new();
    for name in ["a", "b", "c", "d"] {
        if let Ok(text) = std::fs::read_to_string(rig.inside("/srv")?.join(name)) {
            out.push(format!("{name}={}", text.split_whitespace().next().unwrap_or_default()));
        }
    }
    Ok(out.join(" "))
}

fn is(rig: &Rig, when: &str, wanted: &str) -> Result {
    let found = managed(rig)?;
    println!("{when}: {found}");
    want(found == wanted, &format!("{when}: {found}, and not {wanted}"), rig)
}

fn generation(rig: &Rig) -> Result<u64> {
    let said = rig.ok(&["--json", "generations"])?;
    let value: serde_json::Value = serde_json::from_str(said.lines().next().unwrap_or_default())?;
    let all = value.get("generations").and_then(|g| g.as_array()).cloned().unwrap_or_default();
    let current = all.iter().find(|g| word(g, "state") == "current");
    Ok(current.and_then(|g| g.get("number")?.as_u64()).unwrap_or_default())
}

fn layers(context: &Context) -> Result {
    let mut rig = Rig::start(context, &Setup::default())?;
    rig.apply(MAIN)?;
    is(&rig, "main", "a=main b=main")?;
    let sleeper = rig.main_pid("service:sleeper")?;

    // One unit in two layers is a mistake that names both places; nothing is done.
    rig.state_file("c.conf", "dropin c\n")?;
    let double = DROPIN.replace("override = true\n", "");
    let said = asked(&rig, "double.toml", &double, &["apply", "--layer", "dropin:web"])?;
    println!("{}", said.err);
    let names = ["double.toml:2", "next.toml:5", "override = true", "layer main"];
    want(said.code == 2 && names.iter().all(|n| said.err.contains(n)), "a double unit is not named", &rig)?;
    is(&rig, "after a mistake", "a=main b=main")?;
    let said = asked(&rig, "double.toml", &double, &["check", "--layer", "dropin:web"])?;
    want(said.code == 2 && said.err.contains("double.toml:2"), "check does not see the other layers", &rig)?;

    apply(&rig, "dropin:web", DROPIN)?;
    is(&rig, "main and a drop-in", "a=dropin b=main c=dropin")?;
    let plan = asked(&rig, "local.toml", LOCAL, &["plan", "--layer", "local"])?;
    want(plan.out.contains("(layer local)"), &format!("the plan names no layer:\n{}", plan.out), &rig)?;
    apply(&rig, "local", LOCAL)?;
    is(&rig, "three layers", "a=local b=local c=dropin d=local")?;
    let all = generation(&rig)?;
    want(apply(&rig, "local", LOCAL)?.contains(&format!("generation {all}")), "not the same number", &rig)?;
    want(generation(&rig)? == all, "the same layers are another generation", &rig)?;

    // Who looks is told which layer a unit is of, unless that is main.
    want(word(&rig.status("file:/srv/a")?, "layer") == "local", "status names no layer", &rig)?;
    want(rig.status("service:sleeper")?.get("layer").is_none(), "main is named", &rig)?;
    want(rig.ok(&["status", "file:/srv/c"])?.contains("dropin:web"), "status UNIT names no layer", &rig)?;
    want(rig.ok(&["explain", "file:/srv/c"])?.contains("by layer dropin:web"), "explain", &rig)?;
    let list = rig.ok(&["generations"])?;
    println!("{list}");
    want(list.contains("main, dropin:web, local"), "generations names no layers", &rig)?;

    // An apply replaces its own layer: what main no longer says goes, and the others stay; what is hidden changes unseen.
    let two =
        MAIN.replace("main a", "second a").replace("[file.\"/srv/b\"]\ncontent = \"${vars.who} b\\n\"", "");
    let said = asked(&rig, "next.toml", &two, &["plan"])?;
    println!("{}", said.out);
    want(!said.out.contains("/srv/a") && said.out.contains("/srv/b"), "the plan is of more than main", &rig)?;
    rig.apply(&two)?;
    is(&rig, "main without b", "a=local c=dropin d=local")?;
    let hidden = rig.apply(&two.replace("second a", "third a"))?;
    println!("{hidden}");
    let said = rig.ok(&["plan", "--layer", "local", "--remove"])?;
    println!("{said}");
    want(
        said.contains("-local a") && said.contains("+dropin a") && said.contains("remove   file:/srv/d"),
        "plan",
        &rig,
    )?;
    rig.ok(&["apply", "--layer", "local", "--remove"])?;
    is(&rig, "without local", "a=dropin c=dropin")?;
    let said = rig.initctl(&["apply", "--layer", "local", "--remove"])?;
    want(
        said.code == 2 && said.err.contains("main, dropin:web"),
        &format!("removed twice: {}", said.err),
        &rig,
    )?;

    // What two layers declare stays when one of them ends.
    let both = format!("{two}[file.\"/srv/c\"]\ncontent = \"main c\\n\"\n");
    let over = DROPIN.replace("source ", "override = true\nsource ");
    apply(&rig, "dropin:web", &over)?;
    rig.apply(&both)?;
    is(&rig, "c in two layers", "a=dropin c=dropin")?;
    rig.apply(&two.replace("second a", "third a"))?;
    is(&rig, "c in the upper one", "a=dropin c=dropin")?;
    rig.apply(&both.replace("second a", "third a"))?;
    rig.ok(&["apply", "--layer", "dropin:web", "--remove"])?;
    is(&rig, "main alone", "a=third c=main")?;

    // All layers come back, and the next apply finds them.
    rig.ok(&["rollback", &all.to_string()])?;
    is(&rig, "rolled back", "a=local b=local c=dropin d=local")?;
    // The sources of what is hidden are not asked for any more.
    std::fs::remove_file(rig.directory().join("c.conf"))?;
    rig.apply(&two)?;
    is(&rig, "main on what was rolled back to", "a=local c=dropin d=local")?;
    want(rig.main_pid("service:sleeper")? == sleeper, "the service was restarted", &rig)?;

    // A boot has them all.
    let before = generation(&rig)?;
    rig.cut_power()?;
    rig.start_again(&Setup::default())?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    want(generation(&rig)? == before, "the boot made another generation", &rig)?;
    is(&rig, "booted", "a=local c=dropin d=local")?;
    want(word(&rig.status("file:/srv/a")?, "layer") == "local", "the boot lost the layer", &rig)?;
    rig.ok(&["apply", "--layer", "local", "--remove"])?;
    is(&rig, "without local after a boot", "a=dropin c=dropin")?;
    rig.ok(&["apply", "--layer", "dropin:web", "--remove"])?;
    is(&rig, "main alone after a boot", "a=second")?;
    let said = rig.ok(&["verify"])?;
    want(holds(&rig.inside("/srv/a")?, "second a\n"), &said, &rig)
}

/// On the state of an image, which is in no store yet, and on one that was stored before layers were kept.
fn of_an_image(context: &Context) -> Result {
    let mut rig = Rig::start(context, &Setup { first: Some(MAIN), ..Setup::default() })?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    apply(&rig, "local", LOCAL)?;
    is(&rig, "on generation 0", "a=local b=local d=local")?;
    rig.ok(&["apply", "--layer", "local", "--remove"])?;
    is(&rig, "without local", "a=main b=main")?;

    // As an older version leaves a store: what a generation was compiled from is not in it.
    let current = generation(&rig)?;
    rig.cut_power()?;
    let store = rig.directory().join("store");
    std::fs::remove_file(store.join("generations").join(current.to_string()).join("layers"))?;
    std::fs::remove_dir_all(store.join("layers"))?;
    rig.start_again(&Setup::default())?;
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    is(&rig, "an older store", "a=main b=main")?;
    let said = asked(&rig, "local.toml", LOCAL, &["apply", "--layer", "local"])?;
    println!("{}", said.err);
    want(said.code == 2 && said.err.contains("apply its state file once"), "no way out is named", &rig)?;
    // What makes the same manifest keeps the number, and is written down.
    rig.apply(MAIN)?;
    apply(&rig, "local", LOCAL)?;
    is(&rig, "after its state was applied", "a=local b=local d=local")
}

/// A part of a layer stays a part of it, whatever becomes of the layer above.
fn parts(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.apply(MAIN)?;
    let two = "[file.\"/srv/a\"]\ncontent = \"two\\n\"\n[file.\"/srv/b\"]\ncontent = \"two\\n\"\n";
    let said = asked(&rig, "two.toml", two, &["apply", "--only", "/srv/b"])?;
    want(said.code == 0, &said.err, &rig)?;
    is(&rig, "a part", "a=main b=two")?;
    apply(&rig, "local", LOCAL)?;
    is(&rig, "below another layer", "a=local b=two d=local")?;
    let said = asked(&rig, "two.toml", two, &["apply", "--only", "/srv/a"])?;
    want(said.code == 0, &said.err, &rig)?;
    rig.ok(&["apply", "--layer", "local", "--remove"])?;
    is(&rig, "and alone", "a=two b=two")?;
    rig.until_state("service:sleeper", "ready")?;
    Ok(())
}

/// Applies of two layers at the same time: each is on top of what the other has made, and none is lost.
fn race(context: &Context) -> Result {
    let rig = Rig::start(context, &Setup::default())?;
    rig.apply(MAIN)?;
    let dropin = |n: usize| format!("[file.\"/srv/{n}\"]\ncontent = \"{n}\\n\"\n");
    let mut running = Vec::new();
    for n in 0..8 {
        let path = rig.state_file(&format!("{n}.toml"), &dropin(n))?;
        running.push(rig.follow(&["apply", "--layer", &format!("dropin:{n}"), &path])?);
    }
    for lines in &mut running {
        lines.end(crate::rig::LIMIT)?;
    }
    rig.ok(&["wait", "--converged", "--timeout", "60s"])?;
    for n in 0..8 {
        want(
            holds(&rig.inside(&format!("/srv/{n}"))?, &format!("{n}\n")),
            &format!("drop-in {n} is lost"),
            &rig,
        )?;
    }
    is(&rig, "after eight applies", "a=main b=main")
}
