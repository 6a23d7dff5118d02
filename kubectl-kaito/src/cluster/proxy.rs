//! Which proxy leads to a cluster, by client-go's rules: the kubeconfig's own always applies; otherwise the variable
//! for the cluster's scheme, unless the cluster's host is exempt.

use std::net::IpAddr;

use http::Uri;

use crate::environment::Environment;

/// The proxy's URL for a cluster at `cluster`; `configured` is the kubeconfig's `proxy-url`.
#[must_use]
pub fn resolve(
    cluster: &Uri,
    configured: Option<&str>,
    environment: &Environment,
) -> Option<String> {
    if let Some(url) = configured.filter(|url| !url.is_empty()) {
        return Some(url.to_owned());
    }
    let names = match cluster.scheme_str() {
        Some("https") => ["HTTPS_PROXY", "https_proxy"],
        _ => ["HTTP_PROXY", "http_proxy"],
    };
    let proxy = names
        .into_iter()
        .find_map(|name| environment.variable(name))?;
    let host = cluster.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = cluster.port_u16();
    let exempt = ["NO_PROXY", "no_proxy"]
        .into_iter()
        .find_map(|name| environment.variable(name))
        .unwrap_or_default();
    if is_loopback(host)
        || exempt
            .split(',')
            .any(|entry| matches(entry.trim(), host, port))
    {
        return None;
    }
    Some(if proxy.contains("://") {
        proxy.to_owned()
    } else {
        format!("http://{proxy}")
    })
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Whether an entry of `NO_PROXY` covers the host: `*`, a name (and its subdomains), `.domain`, an address, a range,
/// each optionally with a port.
fn matches(entry: &str, host: &str, port: Option<u16>) -> bool {
    if entry.is_empty() {
        return false;
    }
    if entry == "*" {
        return true;
    }
    if let Some((network, length)) = entry.split_once('/') {
        return in_network(host, network, length).unwrap_or(false);
    }
    let (name, entry_port) = match entry.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => {
            (name, digits.parse().ok())
        }
        _ => (entry, None),
    };
    if entry_port.is_some() && entry_port != port {
        return false;
    }
    let name = name
        .trim_matches(['[', ']'])
        .trim_start_matches('*')
        .to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    match name.strip_prefix('.') {
        Some(domain) => host
            .strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.')),
        None => {
            host == name
                || host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.'))
        }
    }
}

fn in_network(host: &str, network: &str, length: &str) -> Option<bool> {
    let length: u32 = length.parse().ok()?;
    match (host.parse().ok()?, network.parse().ok()?) {
        (IpAddr::V4(host), IpAddr::V4(network)) => {
            let shift = 32_u32.checked_sub(length)?;
            let differing = u32::from(host) ^ u32::from(network);
            Some(differing.checked_shr(shift).unwrap_or(0) == 0)
        }
        (IpAddr::V6(host), IpAddr::V6(network)) => {
            let shift = 128_u32.checked_sub(length)?;
            let differing = u128::from(host) ^ u128::from(network);
            Some(differing.checked_shr(shift).unwrap_or(0) == 0)
        }
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::resolve;
    use crate::environment::Environment;

    fn proxy(
        cluster: &str,
        configured: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Option<String> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let environment = Environment {
            variables,
            ..Environment::default()
        };
        resolve(&cluster.parse().unwrap(), configured, &environment)
    }

    /// Cluster, what the variables are (`NAME=VALUE`, separated by spaces), and whether the proxy is used.
    type Case = (&'static str, &'static str, bool);

    fn assert_cases(cases: &[Case]) {
        for (cluster, text, expected) in cases {
            let variables: Vec<(&str, &str)> = text
                .split(' ')
                .filter_map(|pair| pair.split_once('='))
                .collect();
            let found = proxy(cluster, None, &variables);
            assert_eq!(
                found.as_deref(),
                expected.then_some("http://p:1"),
                "{cluster} {text}"
            );
        }
    }

    #[test]
    fn the_variable_for_the_clusters_scheme_counts_in_both_spellings() {
        assert_cases(&[
            ("https://a.b:6443", "HTTPS_PROXY=http://p:1", true),
            ("https://a.b:6443", "https_proxy=p:1", true),
            ("https://a.b:6443", "HTTP_PROXY=http://p:1", false),
            ("http://a.b:80", "HTTP_PROXY=http://p:1", true),
        ]);
    }

    #[test]
    fn loopback_and_listed_hosts_are_exempt() {
        assert_cases(&[
            ("https://127.0.0.1:6443", "HTTPS_PROXY=http://p:1", false),
            ("https://localhost:6443", "HTTPS_PROXY=http://p:1", false),
            (
                "https://a.b:6443",
                "HTTPS_PROXY=http://p:1 NO_PROXY=*",
                false,
            ),
            (
                "https://a.b:6443",
                "HTTPS_PROXY=http://p:1 NO_PROXY=x,b",
                false,
            ),
            (
                "https://a.b:6443",
                "HTTPS_PROXY=http://p:1 NO_PROXY=.b",
                false,
            ),
            (
                "https://a.b:6443",
                "HTTPS_PROXY=http://p:1 NO_PROXY=a.b:1",
                true,
            ),
            (
                "https://10.1.2.3:6443",
                "HTTPS_PROXY=http://p:1 NO_PROXY=10.0.0.0/8",
                false,
            ),
            (
                "https://11.1.2.3:6443",
                "HTTPS_PROXY=http://p:1 NO_PROXY=10.0.0.0/8",
                true,
            ),
        ]);
    }

    #[test]
    fn the_kubeconfigs_own_proxy_always_applies() {
        let found = proxy(
            "https://127.0.0.1",
            Some("socks5://s:1"),
            &[("NO_PROXY", "*")],
        );
        assert_eq!(found.as_deref(), Some("socks5://s:1"));
    }
}
