//! From state files to a manifest: `compile(entry, loader) -> Compiled`.
//!
//! The result is a deterministic function of what the loader gives: same bytes in, same manifest out.

use std::collections::btree_map::Entry;

use crate::address::Address;
use crate::check;
use crate::declared::{self, Declared};
use crate::diagnostic::Diagnostic;
use crate::files::{self, Texts};
use crate::graph::{self, Edge, Index};
use crate::kind::Content;
use crate::load::Loader;
use crate::manifest::{Manifest, ManifestBuilder, NewUnit};
use crate::report::Report;
use crate::source::Sources;
use crate::tree::{self, Units};

/// Largest state file, before it is parsed: 16 MiB.
pub const MAX_STATE_FILE: usize = 16 << 20;

/// One layer of a generation (semantics §1), later ones on top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// `main`, `dropin:FILE`, `dpkg:PACKAGE` or `local`.
    pub name: String,
    /// Path of its entry file, as the loader knows it.
    pub entry: String,
}

/// Where the bytes of a managed file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// They stand in the state file.
    Inline(Vec<u8>),
    /// The loader has them under this path.
    Source(String),
}

/// What a compilation gives.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The manifest; `None` if some diagnostic is an error.
    pub manifest: Option<Manifest>,
    /// Every mistake in every file, in the order of files and lines.
    pub diagnostics: Vec<Diagnostic>,
    /// What the diagnostics point into.
    pub sources: Sources,
    /// Every content that the manifest names, each once, sorted by digest.
    pub contents: Vec<(Content, Where)>,
}

/// Compiles one state file, as the layer `main`.
pub fn compile(entry: &str, loader: &mut dyn Loader) -> Compiled {
    compile_layers(&[Layer { name: "main".to_owned(), entry: entry.to_owned() }], loader)
}

/// Compiles the layers of a generation into one manifest.
pub fn compile_layers(layers: &[Layer], loader: &mut dyn Loader) -> Compiled {
    let mut report = Report::new(loader);
    let declared = read_layers(layers, &mut report);
    let mut units = merge(layers, declared, &mut report);
    tree::expand(&mut units, layers, &mut report);
    tree::fill_entries(&mut units);
    let units: Vec<Declared> = units.into_values().collect();
    let index = Index::new(&units);
    let edges = graph::edges(&index, &mut report);
    check::check(&index, &units, &edges, &mut report);
    graph::check_cycles(&index, &edges, &mut report);
    let manifest = if report.failed() { None } else { build(layers, &units, &edges, &mut report) };
    let (diagnostics, sources, contents) = report.finish();
    Compiled { manifest, diagnostics, sources, contents }
}

fn read_layers(layers: &[Layer], report: &mut Report<'_>) -> Vec<Declared> {
    let texts = Texts::default();
    let mut all = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        files::load(report, &texts, number, &layer.entry, &mut all);
    }
    let mut vars = std::mem::take(&mut report.vars);
    for d in vars.resolve(&report.sources) {
        report.add(d);
    }
    report.vars = vars;
    let mut out = Vec::new();
    for file in &all {
        declared::read(report, file, &mut out);
    }
    out
}

/// One unit an address: a later layer replaces an earlier one where it says so.
fn merge(layers: &[Layer], declared: Vec<Declared>, report: &mut Report<'_>) -> Units {
    // In the order in which people read them: the first one of two is the one further up.
    let mut order: Vec<_> =
        declared.iter().zip(0..).map(|(unit, at)| (unit.layer, unit.header, at)).collect();
    order.sort_unstable();
    let mut declared: Vec<Option<Declared>> = declared.into_iter().map(Some).collect();
    let mut units = Units::new();
    for unit in order.iter().filter_map(|(.., at): &(_, _, usize)| declared.get_mut(*at)?.take()) {
        let key = (unit.address.kind, unit.address.name.clone());
        let mut place = match units.entry(key) {
            Entry::Vacant(place) => {
                place.insert(unit);
                continue;
            }
            Entry::Occupied(place) => place,
        };
        if unit.lost {
            continue;
        }
        if place.get().lost {
            place.insert(unit);
            continue;
        }
        let other = place.get();
        let later = unit.layer > other.layer;
        if !(later && unit.overrides) {
            report.add(match later {
                true => in_two_layers(layers, &unit.address, &unit, other),
                false => Diagnostic::error(
                    "duplicate-unit",
                    unit.header,
                    format!("{} is declared twice", unit.address),
                )
                .label(other.header, "first here")
                .help("take one of them away"),
            });
            continue;
        }
        place.insert(unit);
    }
    units
}

/// Two layers have the same unit, and the one that lies on the other does not say that it may.
pub(crate) fn in_two_layers(
    layers: &[Layer],
    address: &Address,
    later: &Declared,
    earlier: &Declared,
) -> Diagnostic {
    let name = |unit: &Declared| layers.get(unit.layer).map_or("", |l| l.name.as_str());
    let (upper, lower) = (name(later), name(earlier));
    let text =
        format!("{address} is declared twice: in layer {lower}, and in layer {upper}, which lies on it");
    Diagnostic::error("duplicate-unit", later.header, text)
        .label(earlier.header, format!("the one of layer {lower}"))
        .help(format!("say `override = true` in layer {upper} to replace it, or take one of them away"))
}

fn build(layers: &[Layer], units: &[Declared], edges: &[Edge], report: &mut Report<'_>) -> Option<Manifest> {
    let mut builder = ManifestBuilder::new();
    for unit in units {
        builder.unit(NewUnit {
            address: unit.address.clone(),
            spec: unit.spec.clone(),
            flags: unit.flags,
            settle: unit.settle,
            claim: check::claim(&unit.spec),
            layer: layers.get(unit.layer).map(|l| l.name.clone()).unwrap_or_default(),
            origin: report.sources.origin(unit.header),
            description: unit.description.clone(),
        });
    }
    let address = |n: u32| units.get(n as usize).map(|u| &u.address);
    for edge in edges {
        if let (Some(from), Some(to)) = (address(edge.from), address(edge.to)) {
            builder.edge(from, to, edge.kind, &edge.reason);
        }
    }
    let manifest = builder.finish();
    if manifest.len() == units.len() {
        return Some(manifest);
    }
    let limit = crate::manifest::MAX_BYTES >> 20;
    let text = format!("the {} units make a manifest of more than {limit} MiB", units.len());
    report.add(Diagnostic::error("too-large", None, text));
    None
}
