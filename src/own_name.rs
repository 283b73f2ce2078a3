//! The names under which this device may be asked by a browser. Pure.
//!
//! A page of a stranger's site could have its name point to this device (DNS rebinding). So only names count that
//! nobody on the Internet can own: addresses, `localhost`, single words as Docker gives them, and `.local`.

/// Whether nobody on the Internet can own this name, given with or without a port.
pub(crate) fn is_own_name(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _port)) => return address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.rsplit_once(':').map_or(host, |(name, _port)| name),
    };
    let (first, last) = name.rsplit_once('.').unwrap_or(("", name));
    let is_local = ["local", "localhost"]
        .iter()
        .any(|end| last.eq_ignore_ascii_case(end));
    name.parse::<std::net::Ipv4Addr>().is_ok()
        || (is_local && !first.is_empty())
        || (!name.is_empty() && !name.contains('.') && !name.contains(':'))
}
