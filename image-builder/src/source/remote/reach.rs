//! Which addresses may be asked. Data sets are named by users of a cluster, and asked for from inside of it: an address
//! there could be a metadata service or somebody's database.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Which addresses may be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// All.
    #[default]
    Anywhere,
    /// Those of the public internet; names are judged by what they resolve to, at the moment of the connection.
    PublicOnly,
}

/// Why an address is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} is not on the public internet")]
pub struct NotPublic {
    /// Host name or address.
    pub host: String,
}

impl Reach {
    /// Refuses addresses that are written as numbers; names are judged when they are resolved.
    pub(crate) fn check(self, url: &Url) -> Result<(), NotPublic> {
        let written = match url.host() {
            Some(url::Host::Ipv4(address)) => IpAddr::V4(address),
            Some(url::Host::Ipv6(address)) => IpAddr::V6(address),
            Some(url::Host::Domain(_)) | None => return Ok(()),
        };
        if self == Self::Anywhere || is_public(written) {
            return Ok(());
        }
        Err(NotPublic {
            host: written.to_string(),
        })
    }
}

/// Resolves names to public addresses; a name without one does not exist.
pub(crate) struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NotPublic { host }.into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

/// Whether an address belongs to the public internet: the registries of special-purpose addresses (RFC 6890 and its
/// successors) list what does not.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || first == 0
        || first >= 240
        || (first == 100 && (64..128).contains(&second))
        || (first == 192 && second == 0 && third == 0)
        || (first == 198 && (18..20).contains(&second));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inside) = address.to_ipv4_mapped() {
        return is_public_v4(inside);
    }
    let [first, second, ..] = address.segments();
    // Of the whole space only 2000::/3 is given out; parts of it are for documentation, tunnels and benchmarks.
    let special = first == 0x2001 && (second < 0x0200 || second == 0x0db8);
    (0x2000..0x4000).contains(&first) && !special && first != 0x2002 && first != 0x3fff
}

#[cfg(test)]
mod tests {
    use super::{Reach, is_public};

    #[test]
    fn addresses_inside_of_networks_are_not_public() {
        for inside in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2001:db8::1",
            "2002:a00:1::",
            "fec0::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn numbers_are_judged_however_they_are_written() {
        for text in [
            "http://2130706433/x",
            "http://0x7f.1/x",
            "http://[::1]/x",
            "http://169.254.169.254/latest",
        ] {
            let url = text.parse().unwrap();
            assert!(Reach::PublicOnly.check(&url).is_err(), "{text}");
            assert!(Reach::Anywhere.check(&url).is_ok(), "{text}");
        }
    }
}
