//! Compiled manifests, as PID 1 maps them: whatever the bytes, a manifest that was taken can be walked.

use units::{EdgeKind, Manifest};

use super::{Target, language};

/// The bytes of a sealed memfd.
pub const MANIFEST: Target = Target {
    name: "manifest",
    seeds: || {
        let web = b"[service.a]\nexec = [\"x\"]\nrequires = [\"service:b\"]\n[service.b]\nexec = [\"y\"]\n";
        let mut all = vec![Manifest::empty().as_bytes().to_vec()];
        let texts = [&web[..], b"[hostname]\nname = \"a\"\n"].map(|t| language::compiled(t).manifest);
        all.extend(
            (language::STATE.seeds)()
                .iter()
                .map(|s| language::compiled(s).manifest)
                .chain(texts)
                .flatten()
                .map(|m| m.as_bytes().to_vec()),
        );
        all
    },
    words: &[],
    run: |bytes| {
        if let Ok(manifest) = Manifest::from_vec(bytes.to_vec()) {
            walk(&manifest);
        }
    },
};

/// Everything that can be asked of a manifest.
pub fn walk(manifest: &Manifest) {
    let _ = manifest.verify_digest();
    for id in manifest.ids() {
        let address = manifest.address(id);
        let _ =
            (manifest.flags(id), manifest.unit_digest(id), manifest.claim(id), manifest.unit(id).address());
        let _ = (manifest.spec(id), manifest.service(id), manifest.find(address.kind, &address.name));
        let edges = manifest.deps(id).chain(manifest.rdeps(id));
        let known = edges.filter(|e| EdgeKind::from_number(e.kind as u8).is_some()).count();
        let _ = known;
    }
}
