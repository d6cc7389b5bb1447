//! A network of our own: a namespace for each process, on one bridge, so that any of them can be cut off from any other.
//!
//! Everything it makes in the system carries a prefix of this run and is removed when it is dropped; it touches nothing
//! else. Needs root, `ip`, `nft` and `nsenter`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// Name of the table in which a namespace drops packets.
const TABLE: &str = "inet shoal_chaos";
/// All addresses are `10.213.x.y`; `x` is that of a run.
const TEN: u8 = 10;
const SECOND: u8 = 213;

/// Namespaces on a bridge.
#[derive(Debug)]
pub struct Network {
    /// Of all names in the system. Links have 15 letters at most.
    prefix: String,
    members: BTreeMap<String, Ipv4Addr>,
}

impl Network {
    /// A network with a namespace for each of `names`. Errors: why there can be none here.
    pub fn new(names: &[String]) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        for (program, argument, package) in
            [("ip", "-V", "iproute2"), ("nft", "--version", "nftables"), ("nsenter", "--version", "util-linux")]
        {
            run(Command::new(program).arg(argument))
                .map_err(|_| format!("{program} is not installed (Debian's package is {package})"))?;
        }
        let third = claim()?;
        let member = |(i, name): (usize, &String)| {
            let last = u8::try_from(i + 2).map_err(|_| "too many processes for a network".to_owned())?;
            Ok((name.clone(), Ipv4Addr::new(TEN, SECOND, third, last)))
        };
        // Dropped, and so removed, where a step fails.
        let mut network = Self { prefix: prefix(third), members: BTreeMap::new() };
        network.members = names.iter().enumerate().map(member).collect::<Result<_, String>>()?;
        network.build(Ipv4Addr::new(TEN, SECOND, third, 1))?;
        Ok(network)
    }

    fn build(&self, own: Ipv4Addr) -> Result<(), String> {
        let bridge = self.bridge();
        ip(&format!("addr add {own}/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for (name, address) in &self.members {
            let (namespace, link) = (self.namespace(name), format!("{}v{}", self.prefix, address.octets()[3]));
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("link add {link} type veth peer name eth0 netns {namespace}"))?;
            ip(&format!("link set {link} master {bridge} up"))?;
            ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        Ok(())
    }

    fn bridge(&self) -> String {
        bridge(&self.prefix)
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Where the process of this name is.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn address(&self, name: &str) -> Ipv4Addr {
        self.members[name]
    }

    /// A command that runs another in the namespace of this name, and becomes it.
    pub(crate) fn enter(&self, name: &str) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.namespace(name))]
    }

    /// Drops what reaches the namespaces named first from those named second, until [`Network::heal`]. What is cut
    /// already stays so.
    ///
    /// Errors: what the system said.
    pub fn cut(&self, deaf: &BTreeMap<String, BTreeSet<String>>) -> Result<(), String> {
        deaf.iter().filter(|(_, from)| !from.is_empty()).try_for_each(|(name, from)| {
            let addresses: Vec<String> = from.iter().map(|from| self.members[from].to_string()).collect();
            let addresses = addresses.join(", ");
            self.nft(
                name,
                &format!(
                    "add table {TABLE}\n\
                     add chain {TABLE} heard {{ type filter hook input priority 0; }}\n\
                     add rule {TABLE} heard ip saddr {{ {addresses} }} drop\n"
                ),
            )
        })
    }

    /// Lets all hear all.
    ///
    /// Errors: what the system said.
    pub fn heal(&self) -> Result<(), String> {
        // Added first, as one that is not there cannot be deleted.
        self.members.keys().try_for_each(|name| self.nft(name, &format!("add table {TABLE}\ndelete table {TABLE}\n")))
    }

    fn nft(&self, name: &str, script: &str) -> Result<(), String> {
        let [program, argument] = &self.enter(name)[..] else { return Err("no namespace".to_owned()) };
        let mut command = Command::new(program);
        command.args([argument, "nft", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("nft does not start: {error}"))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(script.as_bytes()).map_err(|error| format!("nft: {error}"))?;
        }
        let done = child.wait_with_output().map_err(|error| format!("nft: {error}"))?;
        let said = || format!("nft: {}", String::from_utf8_lossy(&done.stderr).trim());
        done.status.success().then_some(()).ok_or_else(said)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The links of a namespace go with it. What was never made cannot be removed, and need not be.
        for name in self.members.keys() {
            let _ = ip(&format!("netns del {}", self.namespace(name)));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}

/// Makes a bridge whose name says which addresses it has, so that no other run can have those: the system makes a name once.
fn claim() -> Result<u8, String> {
    let known = run(Command::new("ip").args(["-4", "-oneline", "addr"]))?;
    let start: u8 = rand::random();
    let all = (0..=u8::MAX).map(|i| start.wrapping_add(i));
    for third in all.filter(|third| !known.contains(&format!(" {TEN}.{SECOND}.{third}."))) {
        match ip(&format!("link add {} type bridge", bridge(&prefix(third)))) {
            Ok(()) => return Ok(third),
            Err(error) if error.contains("File exists") => {}
            Err(error) => return Err(error),
        }
    }
    Err(format!("no network of 256 below {TEN}.{SECOND} is free"))
}

/// Of the names of a run.
fn prefix(third: u8) -> String {
    format!("shoal{third:02x}")
}

fn bridge(prefix: &str) -> String {
    format!("{prefix}b")
}

fn ip(words: &str) -> Result<(), String> {
    run(Command::new("ip").args(words.split(' '))).map(drop)
}

fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let done = command.stdin(Stdio::null()).output().map_err(|error| format!("{name} does not start: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() { Ok(said(&done.stdout)) } else { Err(format!("{name}: {}", said(&done.stderr).trim())) }
}
