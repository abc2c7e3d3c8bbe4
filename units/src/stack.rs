//! The layers of a generation, compiled together: one comes from files, the others are kept from before.

use std::collections::BTreeMap;

use crate::compile::{Compiled, Layer, compile_layers};
use crate::diagnostic::Diagnostic;
use crate::kept::{Archive, Kept, Recorder};
use crate::kind::Content;
use crate::load::{Entry, LoadError, Loader};
use crate::pick;

/// Compilations that one stack may take: each layer of which a part was applied doubles a step of them.
const MOST: usize = 64;

/// A layer of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The files that this one begins.
    Files(String),
    /// What is kept.
    Kept(Kept),
}

/// Layers with their names, in any order.
pub type Stack = Vec<(String, From)>;

/// What comes of a stack.
#[derive(Debug)]
pub struct Stacked {
    /// The one manifest, or all mistakes.
    pub compiled: Compiled,
    /// What was read from files.
    pub archive: Archive,
}

/// Compiles a stack. Files are asked for once, however often their layer is compiled.
pub fn compile(mut stack: Stack, loader: &mut dyn Loader) -> Stacked {
    stack.sort_by(|a, b| crate::layer::order(&a.0, &b.0));
    let mut work = Work { loader, archive: None, left: MOST };
    let layers = stack.iter().map(|(name, from)| match from {
        From::Files(entry) => (name.as_str(), Door::Files(entry)),
        From::Kept(kept) => (name.as_str(), Door::Kept(kept)),
    });
    let compiled = work.compile(layers.collect());
    Stacked { compiled, archive: work.archive.unwrap_or_default() }
}

#[derive(Clone, Copy)]
enum Door<'s> {
    Files(&'s str),
    Kept(&'s Kept),
}

type Doors<'s> = Vec<(&'s str, Door<'s>)>;

struct Work<'l> {
    loader: &'l mut dyn Loader,
    /// The files, once they have been read.
    archive: Option<Archive>,
    left: usize,
}

impl Work<'_> {
    fn compile<'s>(&mut self, layers: Doors<'s>) -> Compiled {
        for (at, (name, door)) in layers.iter().enumerate() {
            let Door::Kept(Kept::Part { old, new, pick }) = door else { continue };
            let with = |kept: Option<&'s Kept>| {
                let mut layers = layers.clone();
                match (layers.get_mut(at), kept) {
                    (Some(place), Some(kept)) => place.1 = Door::Kept(kept),
                    _ => drop(layers.remove(at)),
                }
                layers
            };
            let base = self.compile(with(old.as_deref()));
            let Some(below) = &base.manifest else { return base };
            let mut whole = self.compile(with(Some(new)));
            let Some(above) = &whole.manifest else { return whole };
            match pick::pick(below, above, pick) {
                Ok(made) => whole.manifest = Some(made),
                Err(e) => {
                    let text = format!("the part of layer {name} that was applied no longer fits: {e}");
                    whole.manifest = None;
                    whole.diagnostics.push(
                        Diagnostic::error("layers", None, text)
                            .help(format!("apply the whole state of layer {name}")),
                    );
                }
            }
            let all = base.contents.into_iter().chain(whole.contents);
            let all: BTreeMap<[u8; 32], _> = all.map(|c| (c.0.digest, c)).collect();
            whole.contents = all.into_values().collect();
            return whole;
        }
        self.once(&layers)
    }

    /// Of whole states only.
    fn once(&mut self, layers: &Doors<'_>) -> Compiled {
        let Some(left) = self.left.checked_sub(1) else {
            let text = "parts were applied too often on top of each other; apply the whole state";
            return Compiled {
                manifest: None,
                diagnostics: vec![Diagnostic::error("layers", None, text)],
                sources: crate::source::Sources::new(),
                contents: Vec::new(),
            };
        };
        self.left = left;
        let read = self.archive.take();
        let mut entries = Vec::new();
        let mut doors = Vec::new();
        for (name, door) in layers {
            let (entry, archive) = match (door, &read) {
                (Door::Kept(Kept::State(archive)), _) => (&archive.entry, Some(archive)),
                (Door::Files(_), Some(archive)) => (&archive.entry, Some(archive)),
                (Door::Files(entry), None) => (&(*entry).to_owned(), None),
                // Taken apart before.
                (Door::Kept(Kept::Part { .. }), _) => continue,
            };
            entries.push(Layer { name: (*name).to_owned(), entry: entry.clone() });
            doors.push(archive);
        }
        let fresh = layers.iter().find_map(|(_, door)| match door {
            Door::Files(entry) => Some(*entry),
            Door::Kept(_) => None,
        });
        let archive = Archive::new(fresh.unwrap_or_default());
        let files = Recorder { from: &mut *self.loader, archive };
        let mut layered = Layered { doors, files, at: 0 };
        let compiled = compile_layers(&entries, &mut layered);
        let recorded = layered.files.archive;
        self.archive = read.or_else(|| fresh.map(|_| recorded));
        compiled
    }
}

/// Answers for each layer from where that is.
struct Layered<'a, 'l> {
    /// What is kept of each layer; nothing of the one that comes from files.
    doors: Vec<Option<&'a Archive>>,
    files: Recorder<'a, dyn Loader + 'l>,
    at: usize,
}

impl Layered<'_, '_> {
    fn kept(&self) -> Option<&Archive> {
        self.doors.get(self.at).copied().flatten()
    }
}

impl Loader for Layered<'_, '_> {
    fn layer(&mut self, number: usize) {
        self.at = number;
    }

    fn read(&mut self, path: &str) -> Result<Vec<u8>, LoadError> {
        match self.kept() {
            Some(mut archive) => archive.read(path),
            None => self.files.read(path),
        }
    }

    fn list(&mut self, directory: &str) -> Result<Vec<Entry>, LoadError> {
        match self.kept() {
            Some(mut archive) => archive.list(directory),
            None => self.files.list(directory),
        }
    }

    fn contents(&mut self, content: Content, bytes: &[u8]) -> Result<(), LoadError> {
        self.files.contents(content, bytes)
    }

    fn source(&mut self, path: &str) -> Result<Content, LoadError> {
        match self.kept() {
            Some(mut archive) => archive.source(path),
            None => self.files.source(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::MemoryLoader;
    use crate::manifest::Manifest;
    use crate::pick::Pick;
    use crate::{Kind, diagnostic};

    /// What a compilation says: units with their layers and contents, or the mistakes.
    fn said(stacked: &Stacked) -> String {
        let Some(m) = &stacked.compiled.manifest else {
            let all = stacked.compiled.diagnostics.iter();
            return all.map(|d| diagnostic::render(d, &stacked.compiled.sources)).collect();
        };
        let text = |m: &Manifest, id| match m.spec(id) {
            Some(crate::kind::Spec::File(f)) => f.content.map_or(0, |c| c.size),
            _ => 0,
        };
        let unit = |id| format!("{} {} {}", m.address(id), m.unit(id).layer, text(m, id));
        m.ids().map(unit).collect::<Vec<_>>().join("\n")
    }

    fn files(entry: &str) -> From {
        From::Files(entry.to_owned())
    }

    fn kept(text: &str) -> Kept {
        let mut loader = MemoryLoader::new().file("/s.toml", text).file("/one", "1").file("/two", "22");
        let stacked = compile(vec![("main".to_owned(), files("/s.toml"))], &mut loader);
        Kept::State(stacked.archive)
    }

    fn stack(layers: &[(&str, &From)]) -> Stack {
        layers.iter().map(|(name, from)| ((*name).to_owned(), (*from).clone())).collect()
    }

    /// A file a letter, with so many bytes.
    fn state(units: &[(&str, usize)]) -> String {
        let unit = |(name, size): &(&str, usize)| {
            let (name, more) = name.split_once('!').map_or((*name, ""), |(n, _)| (n, "override = true\n"));
            format!("[file.\"/{name}\"]\ncontent = \"{}\"\n{more}", "x".repeat(*size))
        };
        units.iter().map(unit).collect()
    }

    #[test]
    fn what_a_later_layer_overrides_comes_back_with_its_own_files_gone() {
        let main = "[vars]\nwho = \"main\"\n[file.\"/a\"]\nsource = \"one\"\n[file.\"/b\"]\ncontent = \"${vars.who}!\"\n";
        let main = From::Kept(kept(main));
        let local = "[vars]\nwho = \"somebody\"\n[file.\"/a\"]\nsource = \"one\"\noverride = true\n";
        // Of the same names as the files of the other layer, which are not there any more.
        let mut loader = MemoryLoader::new().file("/s.toml", local).file("/one", "four");
        let entry = files("/s.toml");
        let both = compile(stack(&[("local", &entry), ("main", &main)]), &mut loader);
        assert_eq!(said(&both), "file:/a local 4\nfile:/b main 9");
        let local = From::Kept(Kept::State(both.archive));
        let again = compile(stack(&[("main", &main), ("local", &local)]), &mut MemoryLoader::new());
        assert_eq!(said(&again), "file:/a local 4\nfile:/b main 9");
        let alone = compile(stack(&[("main", &main)]), &mut MemoryLoader::new());
        assert_eq!(said(&alone), "file:/a main 1\nfile:/b main 5");
    }

    #[test]
    fn one_unit_in_two_layers_names_both_files_and_lines() {
        let mut loader = MemoryLoader::new().file("/other.toml", "\n\n[file.\"/a\"]\ncontent = \"x\"\n");
        let main = From::Kept(kept("[file.\"/a\"]\ncontent = \"x\"\n"));
        let entry = files("/other.toml");
        let said = said(&compile(stack(&[("main", &main), ("dropin:x", &entry)]), &mut loader));
        for part in ["/other.toml:3", "/s.toml:1", "override = true` in layer dropin:x", "layer main"] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }

    #[test]
    fn a_part_of_a_layer_stays_one_whatever_lies_on_it() {
        let part = |old: Option<Kept>, new: Kept, units: &[&str]| Kept::Part {
            old: old.map(Box::new),
            new: Box::new(new),
            pick: Pick::Only(units.iter().map(|u| (*u).to_owned()).collect()),
        };
        let old = kept(&state(&[("a", 1), ("b", 1), ("c", 1)]));
        let new = kept(&state(&[("a", 2), ("b", 2), ("c", 2)]));
        let main = From::Kept(part(Some(old), new, &["/b"]));
        let none = &mut MemoryLoader::new();
        assert_eq!(
            said(&compile(stack(&[("main", &main)]), none)),
            "file:/a main 1\nfile:/b main 2\nfile:/c main 1"
        );
        // Files are read once, though their layer is compiled twice.
        let mut loader = MemoryLoader::new().file("/l", state(&[("a!", 9), ("d", 9)]));
        let on_top = compile(stack(&[("main", &main), ("local", &files("/l"))]), &mut loader);
        assert_eq!(said(&on_top), "file:/a local 9\nfile:/b main 2\nfile:/c main 1\nfile:/d local 9");
        assert_eq!(on_top.archive.entry, "/l");
        let first = From::Kept(part(None, kept(&state(&[("x", 3), ("y", 3)])), &["/y"]));
        let both = compile(stack(&[("main", &main), ("local", &first)]), none);
        assert_eq!(said(&both), "file:/a main 1\nfile:/b main 2\nfile:/c main 1\nfile:/y local 3");
    }

    #[test]
    fn a_part_that_no_longer_fits_is_said() {
        let old = kept("[file.\"/a\"]\ncontent = \"x\"\n");
        let new = kept(
            "[service.s]\nexec = [\"s\"]\nrequires = [\"file:/b\"]\n[file.\"/b\"]\ncontent = \"x\"\n\
             [file.\"/c\"]\ncontent = \"x\"\n",
        );
        let pick = Pick::Except(vec!["/b".to_owned()]);
        let main = From::Kept(Kept::Part { old: Some(Box::new(old)), new: Box::new(new), pick });
        let stacked = compile(stack(&[("main", &main)]), &mut MemoryLoader::new());
        let said = said(&stacked);
        assert!(said.contains("layer main") && said.contains("whole state"), "{said}");
    }

    #[test]
    fn parts_are_bounded() {
        let whole = |n| kept(&state(&[("a", n), ("b", n)]));
        let mut layer = whole(1);
        for n in 0..MOST {
            let pick = Pick::Only(vec!["/a".to_owned()]);
            layer = Kept::Part { old: Some(Box::new(layer)), new: Box::new(whole(n % 9 + 1)), pick };
            if n + 4 < MOST {
                continue;
            }
            let fits =
                compile(vec![("main".to_owned(), From::Kept(layer.clone()))], &mut MemoryLoader::new())
                    .compiled
                    .manifest
                    .is_some();
            assert_eq!(fits, n + 2 <= MOST, "{n}");
        }
    }

    #[test]
    fn entries_of_a_directory_are_units_of_its_layer() {
        let dir = "[directory.\"/w\"]\nsource = \"w\"\n";
        let mut loader = MemoryLoader::new().file("/m", dir).file("/w/x", "1").file("/w/y", "1");
        let main = compile(vec![("main".to_owned(), files("/m"))], &mut loader);
        let main = From::Kept(Kept::State(main.archive));
        let on_top = |text: &str| {
            let mut loader = MemoryLoader::new().file("/l", text).file("/w/x", "four");
            said(&compile(stack(&[("main", &main), ("local", &files("/l"))]), &mut loader))
        };
        let own = "[file.\"/w/x\"]\ncontent = \"four\"\n";
        let refused = on_top(own);
        assert!(refused.contains("/l:1") && refused.contains("/m:"), "{refused}");
        assert_eq!(
            on_top(&format!("{own}override = true\n")),
            "file:/w/x local 4\nfile:/w/y main 1\ndirectory:/w main 0"
        );
        // The whole directory of a later layer takes the place of the earlier one.
        assert_eq!(on_top(&format!("{dir}override = true\n")), "file:/w/x local 4\ndirectory:/w local 0");
        assert_eq!(Kind::File.word(), "file");
    }
}
