//! Part of a new manifest on top of the old one: what `apply --only` and `apply --except` make. The result is a whole
//! manifest, and a generation like any other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::address::{Address, Kind};
use crate::check::claim;
use crate::cycle;
use crate::manifest::{EdgeKind, Manifest, ManifestBuilder, NewUnit, UnitId};
use crate::nearest::nearest_address;

/// Which part; units as typed, an address or a bare name that one kind only has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pick {
    /// These, with everything that they depend on; the rest stays as it is.
    Only(Vec<String>),
    /// Everything but these, which stay as they are.
    Except(Vec<String>),
}

/// Why there is no such manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// Neither manifest has the unit.
    #[error("no such unit: {unit}{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    NoSuchUnit {
        /// As it was typed.
        unit: String,
        /// The address with the most similar name.
        nearest: Option<String>,
    },
    /// A bare name that several units have.
    #[error("{unit} is the name of several units: {}", candidates.join(", "))]
    Ambiguous {
        /// As it was typed.
        unit: String,
        /// All that it can mean.
        candidates: Vec<String>,
    },
    /// A unit of the result needs one that is not in it.
    #[error("{unit} {edge} {missing}, which would not be there; {help}")]
    Missing {
        /// Who needs it.
        unit: Address,
        /// How.
        edge: &'static str,
        /// What.
        missing: Address,
        /// The way out.
        help: &'static str,
    },
    /// Units of both manifests claim the same thing.
    #[error("{0} and {1} claim the same thing; take both, or neither")]
    Claim(Address, Address),
    /// Together they wait for each other.
    #[error("units of the old and the new state would wait for each other: {0}")]
    Cycle(String),
    /// A unit cannot be read.
    #[error("{0} cannot be read")]
    Unreadable(Address),
}

/// Where a unit of the result comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Old(UnitId),
    New(UnitId),
}

/// The part of `new` that was picked, on top of `old`.
///
/// # Errors
/// When a unit is unknown, or the result does not hold together.
pub fn pick(old: &Manifest, new: &Manifest, pick: &Pick) -> Result<Manifest, PickError> {
    let (typed, help) = match pick {
        Pick::Only(units) => (units, "name it with --only too"),
        Pick::Except(units) => (units, "name it with --except too"),
    };
    let named = typed.iter().map(|unit| resolve(old, new, unit)).collect::<Result<BTreeSet<_>, _>>()?;
    let mut chosen: BTreeMap<Address, From> = BTreeMap::new();
    match pick {
        Pick::Only(_) => {
            chosen.extend(old.ids().map(|id| (old.address(id), From::Old(id))));
            for address in &named {
                chosen.remove(address);
            }
            let taken = closure(new, &named);
            chosen.extend(taken.into_iter().map(|id| (new.address(id), From::New(id))));
        }
        Pick::Except(_) => {
            chosen.extend(new.ids().map(|id| (new.address(id), From::New(id))));
            for address in &named {
                chosen.remove(address);
            }
            for id in closure(old, &named) {
                // What they depend on comes along where the new state has nothing of that name.
                chosen.entry(old.address(id)).or_insert(From::Old(id));
            }
        }
    }
    build(old, new, &chosen, help)
}

/// Units and all that they depend on.
fn closure(manifest: &Manifest, named: &BTreeSet<Address>) -> BTreeSet<UnitId> {
    let mut todo: Vec<UnitId> = named.iter().filter_map(|a| manifest.find(a.kind, &a.name)).collect();
    let mut out = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if out.insert(id) {
            // What is only ordered is not depended on.
            todo.extend(manifest.deps(id).filter(|e| e.kind != EdgeKind::After).map(|e| e.unit));
        }
    }
    out
}

fn resolve(old: &Manifest, new: &Manifest, typed: &str) -> Result<Address, PickError> {
    let there = |kind: Kind, name: &str| [old, new].iter().any(|m| m.find(kind, name).is_some());
    if let Some(address) = Address::parse(typed)
        && there(address.kind, &address.name)
    {
        return Ok(address);
    }
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| there(*kind, typed)).collect();
    match kinds.as_slice() {
        [kind] => Ok(Address::new(*kind, typed)),
        // Daemons run as users of their own name: who types `redis` means the daemon.
        [Kind::Service, accounts @ ..] if accounts.iter().all(|k| matches!(k, Kind::User | Kind::Group)) => {
            Ok(Address::new(Kind::Service, typed))
        }
        [] => {
            let all = [new, old].into_iter().flat_map(|m| m.ids().map(|id| m.address(id)));
            let nearest = nearest_address(typed, all).map(|a| a.to_string());
            Err(PickError::NoSuchUnit { unit: typed.to_owned(), nearest })
        }
        many => Err(PickError::Ambiguous {
            unit: typed.to_owned(),
            candidates: many.iter().map(|k| Address::new(*k, typed).to_string()).collect(),
        }),
    }
}

fn build(
    old: &Manifest,
    new: &Manifest,
    chosen: &BTreeMap<Address, From>,
    help: &'static str,
) -> Result<Manifest, PickError> {
    let mut builder = ManifestBuilder::new();
    let mut claims: BTreeMap<String, &Address> = BTreeMap::new();
    let numbers: BTreeMap<&Address, u32> = chosen.keys().zip(0..).collect();
    let names: Vec<&Address> = chosen.keys().collect();
    let mut ordering = Vec::new();
    for (address, from) in chosen {
        let (manifest, id) = match from {
            From::Old(id) => (old, *id),
            From::New(id) => (new, *id),
        };
        let spec = manifest.spec(id).ok_or_else(|| PickError::Unreadable(address.clone()))?;
        let claim = claim(&spec);
        if !claim.is_empty()
            && let Some(other) = claims.insert(claim.clone(), address)
        {
            return Err(PickError::Claim(other.clone(), address.clone()));
        }
        let view = manifest.unit(id);
        builder.unit(NewUnit {
            address: address.clone(),
            spec,
            flags: view.flags,
            settle: view.settle,
            claim,
            layer: view.layer.to_owned(),
            origin: view.origin.to_owned(),
            description: view.description.to_owned(),
        });
        for edge in manifest.deps(id) {
            let to = manifest.address(edge.unit);
            let Some(number) = numbers.get(&to) else {
                if matches!(edge.kind, EdgeKind::Requires | EdgeKind::Binds) {
                    let (unit, edge) = (address.clone(), edge.kind.word());
                    return Err(PickError::Missing { unit, edge, missing: to, help });
                }
                continue;
            };
            builder.edge(address, &to, edge.kind, edge.reason);
            if !matches!(edge.kind, EdgeKind::ReloadOn | EdgeKind::RestartOn) {
                ordering.extend(numbers.get(address).map(|from| (*from, *number)));
            }
        }
    }
    if let Some(cycle) = cycle::cycles(names.len(), &ordering).first() {
        let way = cycle.iter().filter_map(|e| ordering.get(*e)).take(20);
        let way: Vec<String> =
            way.filter_map(|(from, _)| names.get(*from as usize)).map(|a| a.to_string()).collect();
        return Err(PickError::Cycle(way.join(" → ")));
    }
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::MemoryLoader;

    fn compiled(text: &str) -> Manifest {
        let mut loader = MemoryLoader::new().file("/s.toml", text);
        let compiled = crate::compile("/s.toml", &mut loader);
        compiled.manifest.unwrap_or_else(|| panic!("{:?}", compiled.diagnostics))
    }

    const OLD: &str = "[file.\"/a\"]\ncontent = \"old\"\n[file.\"/b\"]\ncontent = \"old\"\n\
                       [service.s]\nexec = [\"s\"]\nrequires = [\"file:/a\"]\n[target.gone]\n";
    const NEW: &str = "[file.\"/a\"]\ncontent = \"new\"\n[file.\"/b\"]\ncontent = \"new\"\n\
                       [file.\"/c\"]\ncontent = \"new\"\n[service.s]\nexec = [\"s\", \"x\"]\nrequires = [\"file:/c\"]\n";

    /// Units as `address = the state that they come from`.
    fn picked(how: &Pick) -> Result<String, String> {
        let (old, new) = (compiled(OLD), compiled(NEW));
        let m = pick(&old, &new, how).map_err(|e| e.to_string())?;
        assert!(m.verify_digest());
        let origin = |id| {
            let (a, digest) = (m.address(id), m.unit_digest(id));
            let is = |in_: &Manifest| in_.find(a.kind, &a.name).is_some_and(|i| in_.unit_digest(i) == digest);
            format!(
                "{a} = {}",
                if is(&new) {
                    "new"
                } else if is(&old) {
                    "old"
                } else {
                    "neither"
                }
            )
        };
        Ok(m.ids().map(origin).collect::<Vec<_>>().join(", "))
    }

    fn only(units: &[&str]) -> Result<String, String> {
        picked(&Pick::Only(units.iter().map(|u| (*u).to_owned()).collect()))
    }

    fn except(units: &[&str]) -> Result<String, String> {
        picked(&Pick::Except(units.iter().map(|u| (*u).to_owned()).collect()))
    }

    fn same(got: Result<String, String>, wanted: &[&str]) {
        let got = got.unwrap();
        let mut got: Vec<&str> = got.split(", ").collect();
        got.sort_unstable();
        assert_eq!(got, wanted);
    }

    #[test]
    fn only_takes_a_unit_with_what_it_needs() {
        same(
            only(&["s"]),
            &["file:/a = old", "file:/b = old", "file:/c = new", "service:s = new", "target:gone = old"],
        );
        same(only(&["/b"]), &["file:/a = old", "file:/b = new", "service:s = old", "target:gone = old"]);
        same(only(&["gone"]), &["file:/a = old", "file:/b = old", "service:s = old"]);
    }

    #[test]
    fn except_leaves_a_unit_as_it_is() {
        same(except(&["/b"]), &["file:/a = new", "file:/b = old", "file:/c = new", "service:s = new"]);
        same(except(&["s"]), &["file:/a = new", "file:/b = new", "file:/c = new", "service:s = old"]);
        assert_eq!(
            except(&["/c"]),
            Err("service:s requires file:/c, which would not be there; name it with --except too".to_owned())
        );
    }

    #[test]
    fn unknown_units_are_named() {
        assert_eq!(only(&["file:/d"]), Err("no such unit: file:/d".to_owned()));
        let near = "no such unit: flie:/a; did you mean file:/a?";
        assert_eq!(only(&["flie:/a"]), Err(near.to_owned()));
    }

    #[test]
    fn all_of_it_is_the_new_manifest() {
        let (old, new) = (compiled(OLD), compiled(NEW));
        let all: Vec<String> = old
            .ids()
            .map(|id| old.address(id))
            .chain(new.ids().map(|id| new.address(id)))
            .map(|a| a.to_string())
            .collect();
        assert_eq!(pick(&old, &new, &Pick::Only(all)).unwrap().digest(), new.digest());
    }
}
