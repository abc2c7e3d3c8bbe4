//! What a typed unit name means: an address, or a bare name that only one unit has. Pure.

use units::nearest::nearest_address;
use units::{Address, Kind};

use super::failure::Failure;

/// The unit that `text` names: `kind:name`, a bare name or path that one kind only has (a service and the user
/// or group that it runs as count as the service), or `name.kind` as systemd writes it; spelled as its kind allows
/// (`/srv/`, `net/core/somaxconn`, `module:virtio-rng`). `exists` looks one address up; `all` is walked only to find
/// the nearest name for the error.
///
/// # Errors
/// [`Failure::NoSuchUnit`] with the most similar address, [`Failure::AmbiguousUnit`] with all candidates.
pub fn resolve<I>(
    text: &str,
    exists: impl Fn(Kind, &str) -> bool,
    all: impl FnOnce() -> I,
) -> Result<Address, Failure>
where
    I: Iterator<Item = Address>,
{
    if let Some(address) = Address::parse(text)
        && exists(address.kind, &address.name)
    {
        return Ok(address);
    }
    let found: Vec<_> = Kind::ALL.into_iter().filter(|k| exists(*k, text)).collect();
    match found.as_slice() {
        [kind] => return Ok(Address::new(*kind, text)),
        [] => {}
        // Daemons run as users of their own name: who types `redis` means the daemon.
        [Kind::Service, accounts @ ..] if accounts.iter().all(|k| matches!(k, Kind::User | Kind::Group)) => {
            return Ok(Address::new(Kind::Service, text));
        }
        many => {
            let candidates = many.iter().map(|k| Address::new(*k, text).to_string()).collect();
            return Err(Failure::AmbiguousUnit { unit: text.to_owned(), candidates });
        }
    }
    if let Some((name, word)) = text.rsplit_once('.')
        && let Some(kind) = Kind::from_word(word)
        && exists(kind, name)
    {
        return Ok(Address::new(kind, name));
    }
    let (word, name) = match Address::parse(text) {
        Some(address) => (Some(address.kind), address.name),
        None => (None, text.to_owned()),
    };
    for kind in Kind::ALL.into_iter().filter(|k| word.is_none_or(|w| w == *k)) {
        let canonical = canonical(kind, &name);
        if canonical != name && exists(kind, &canonical) {
            return Ok(Address::new(kind, canonical));
        }
    }
    let nearest = nearest_address(text, all()).map(|a| a.to_string());
    Err(Failure::NoSuchUnit { unit: text.to_owned(), nearest })
}

/// A name as manifests have it, of what people write for it.
fn canonical(kind: Kind, name: &str) -> String {
    match kind {
        Kind::File | Kind::Directory | Kind::Symlink | Kind::Mount if name.starts_with('/') => {
            let parts = name.split('/').filter(|p| !p.is_empty() && *p != ".");
            format!("/{}", parts.collect::<Vec<_>>().join("/"))
        }
        Kind::Module => name.replace('-', "_"),
        Kind::Sysctl => {
            let name = name.strip_prefix("/proc/sys/").unwrap_or(name);
            let swap = |c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            };
            // As for sysctl(8), the first separator decides.
            match name.find(['.', '/']) {
                Some(at) if name[at..].starts_with('/') => name.chars().map(swap).collect(),
                _ => name.to_owned(),
            }
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: [&str; 12] = [
        "service:nginx",
        "service:redis",
        "user:redis",
        "group:redis",
        "file:/etc/motd",
        "mount:/srv",
        "directory:/srv",
        "service:a:b",
        "user:ann",
        "module:virtio_rng",
        "sysctl:net.core.somaxconn",
        "sysctl:net.ipv4.conf.eth0/1.forwarding",
    ];

    fn ask(text: &str) -> String {
        let all = || UNITS.iter().filter_map(|u| Address::parse(u));
        match resolve(text, |k, n| all().any(|a| a.kind == k && a.name == n), all) {
            Ok(address) => address.to_string(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn names_mean_one_unit_or_are_refused() {
        let asked = [
            "service:nginx",
            "nginx",
            "nginx.service",
            "/etc/motd",
            "redis",
            "/srv",
            "ann",
            "a:b",
            "ngnix",
            "servise:nginx",
            "/etc/mtd",
            "postgresql",
            "motd",
            "module:virtio-rng",
            "virtio-rng",
            "/etc//motd/",
            "mount:/srv/",
            "net/core/somaxconn",
            "/proc/sys/net/core/somaxconn",
            "sysctl:net/ipv4/conf/eth0.1/forwarding",
        ];
        let got: Vec<_> = asked.iter().map(|t| format!("{t} -> {}", ask(t))).collect();
        expect_test::expect![[r#"
            service:nginx -> service:nginx
            nginx -> service:nginx
            nginx.service -> service:nginx
            /etc/motd -> file:/etc/motd
            redis -> service:redis
            /srv -> /srv is the name of several units: directory:/srv, mount:/srv
            ann -> user:ann
            a:b -> service:a:b
            ngnix -> no such unit: ngnix; did you mean service:nginx?
            servise:nginx -> no such unit: servise:nginx; did you mean service:nginx?
            /etc/mtd -> no such unit: /etc/mtd; did you mean file:/etc/motd?
            postgresql -> no such unit: postgresql
            motd -> no such unit: motd; did you mean file:/etc/motd?
            module:virtio-rng -> module:virtio_rng
            virtio-rng -> module:virtio_rng
            /etc//motd/ -> file:/etc/motd
            mount:/srv/ -> mount:/srv
            net/core/somaxconn -> sysctl:net.core.somaxconn
            /proc/sys/net/core/somaxconn -> sysctl:net.core.somaxconn
            sysctl:net/ipv4/conf/eth0.1/forwarding -> sysctl:net.ipv4.conf.eth0/1.forwarding"#]]
        .assert_eq(&got.join("\n"));
    }
}
