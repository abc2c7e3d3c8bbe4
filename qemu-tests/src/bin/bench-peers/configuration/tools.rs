//! The tools: how each is told the files, and run. Every one manages the same contents at the same paths.

use std::fmt::Write;

/// Where everything that is managed lies.
pub(crate) const MANAGED: &str = "/srv/managed";

/// One tool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    /// The package that has it.
    pub(crate) package: &'static str,
    pub(crate) settings: &'static str,
    /// The most files that it is given: one of them needs a third of a second for each.
    pub(crate) most: u32,
    /// The file that it reads, in /mnt.
    pub(crate) file: &'static str,
    /// What that says for so many files.
    pub(crate) policy: fn(u32) -> String,
    /// Its command, for a policy of this name; the program by its path.
    pub(crate) command: &'static [&'static str],
}

/// All of them, in the order of the table.
pub(crate) const ALL: &[Tool] = &[CFENGINE, PUPPET, ANSIBLE];

const CFENGINE: Tool = Tool {
    name: "CFEngine",
    package: "cfengine3",
    settings: "`cf-agent -K`, `content =>`",
    most: u32::MAX,
    file: "/mnt/policy.cf",
    policy: cfengine,
    command: &["/usr/bin/cf-agent", "-K", "-f", "/mnt/policy.cf"],
};

const PUPPET: Tool = Tool {
    name: "Puppet",
    package: "puppet-agent",
    settings: "`puppet apply`",
    most: u32::MAX,
    file: "/mnt/policy.pp",
    policy: puppet,
    command: &["/usr/bin/puppet", "apply", "/mnt/policy.pp"],
};

const ANSIBLE: Tool = Tool {
    name: "Ansible",
    package: "ansible-core",
    settings: "`ansible-playbook -c local`, `copy` in a loop, no facts",
    most: 20,
    file: "/mnt/policy.yml",
    policy: ansible,
    command: &["/usr/bin/ansible-playbook", "-c", "local", "-i", "localhost,", "/mnt/policy.yml"],
};

/// A managed file's path. A hundred to a directory.
pub(crate) fn path(n: u32) -> String {
    format!("{MANAGED}/{}/{n}", n / 100)
}

/// A managed file's content: a configuration file's size, different in each.
pub(crate) fn content(n: u32) -> String {
    format!("# file {n}\n{}", "a setting = some value of it\n".repeat(8))
}

/// Every directory that the files lie in.
fn directories(files: u32) -> impl Iterator<Item = String> {
    let below = (0..files.div_ceil(100)).map(|n| format!("{MANAGED}/{n}"));
    std::iter::once(MANAGED.to_owned()).chain(below)
}

fn cfengine(files: u32) -> String {
    let mut out =
        "body common control { bundlesequence => { \"main\" }; }\nbundle agent main {\n  files:\n".to_owned();
    for n in 0..files {
        let _ = writeln!(out, "    \"{}\" create => \"true\", content => \"{}\";", path(n), content(n));
    }
    out.push_str("}\n");
    out
}

fn puppet(files: u32) -> String {
    let mut out = String::new();
    for directory in directories(files) {
        let _ = writeln!(out, "file {{ '{directory}': ensure => directory }}");
    }
    for n in 0..files {
        let _ = writeln!(out, "file {{ '{}': content => '{}' }}", path(n), content(n));
    }
    out
}

fn ansible(files: u32) -> String {
    let text = content(0).replace('\n', "\\n").replace("# file 0", "# file {{ item }}");
    let mut out = "- hosts: localhost\n  gather_facts: false\n  tasks:\n".to_owned();
    for directory in directories(files) {
        let _ = writeln!(out, "    - file: {{ path: {directory}, state: directory }}");
    }
    let _ = writeln!(
        out,
        "    - copy: {{ dest: \"{MANAGED}/{{{{ item // 100 }}}}/{{{{ item }}}}\", content: \"{text}\" }}\n      \
         loop: \"{{{{ range(0, {files}) | list }}}}\""
    );
    out
}

/// The same files as Holdfast's state.
pub(crate) fn state(files: u32) -> qemu_tests::Result<String> {
    let mut out = String::new();
    for n in 0..files {
        write!(out, "[file.\"{}\"]\ncontent = {:?}\n", path(n), content(n))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_name_every_file_and_its_directory() {
        for tool in [CFENGINE, PUPPET] {
            let text = (tool.policy)(101);
            assert!(
                text.contains("/srv/managed/0/99") && text.contains("/srv/managed/1/100"),
                "{}",
                tool.name
            );
            assert!(text.contains(&content(100)));
        }
        assert!(ansible(101).contains("range(0, 101)") && ansible(101).contains("path: /srv/managed/1,"));
    }

    #[test]
    fn the_state_compiles() {
        qemu_tests::rig::state::compile_boot(&state(3).unwrap()).unwrap();
    }
}
