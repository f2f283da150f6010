//! The command line: what can be said, and what its help says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{event, flavor, host, hypervisor, image, manual, migration, network, server};
use crate::output::Output;

const AFTER: &str = "\
Where the cloud is and who you are comes from flags, from the chosen cloud of clouds.yaml (searched for in ., \
~/.config/openstack and /etc/openstack, or named by OS_CLIENT_CONFIG_FILE; secure.yaml is laid over it), and from \
OS_* variables, in this order. Passwords are taken from files and variables only, because everybody can read \
a command line.

Exit status:
  0    done
  1    it was begun and ended badly: a migration failed, a server is in ERROR
  2    the command line or the configuration is wrong; nothing was asked
  3    the service said no: not found, not unambiguous, not allowed, not in this state
  4    the service can't be reached, does not know you, or has a failure of its own
  5    --timeout is over; what was begun goes on
  130  Ctrl-C while watching; what was begun goes on

Examples:
  whimbrel --os-cloud lab server list
  whimbrel server migrate --live --wait guest
  whimbrel host drain host-a --reason 'new memory'
  whimbrel migration list --status running -f json";

/// Moves virtual machines between hosts, and looks after them.
#[derive(Debug, Parser)]
#[command(name = "whimbrel", version, after_long_help = AFTER, after_help = "More, with exit statuses and examples: whimbrel --help")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) cloud: CloudOptions,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Tell nothing while waiting
    #[arg(short, long, global = true, help_heading = "Output")]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Servers: make, look at, run, move, delete
    #[command(subcommand)]
    Server(server::Command),
    /// Migrations: look at, watch, call off
    #[command(subcommand)]
    Migration(migration::Command),
    /// Hosts: look at, close, empty, give up
    #[command(subcommand)]
    Host(host::Command),
    /// Hypervisors: what hosts have and use
    #[command(subcommand)]
    Hypervisor(hypervisor::Command),
    /// Flavors: sizes of servers
    #[command(subcommand)]
    Flavor(flavor::Command),
    /// Images: what servers' disks begin as
    #[command(subcommand)]
    Image(image::Command),
    /// Networks: what servers are plugged into
    #[command(subcommand)]
    Network(network::Command),
    /// Events: what was done with a server, step by step
    #[command(subcommand)]
    Event(event::Command),
    /// Print a script that completes commands in a shell
    Completion(manual::Completion),
    /// Print the manual page, or write one for each command
    Man(manual::Man),
}

/// Where the cloud is and who is asking.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cloud")]
pub(crate) struct CloudOptions {
    /// A cloud of clouds.yaml (OS_CLOUD)
    #[arg(long, value_name = "NAME", global = true)]
    os_cloud: Option<String>,
    /// none, http_basic, password or v3applicationcredential (OS_AUTH_TYPE)
    #[arg(long, value_name = "TYPE", global = true, hide_short_help = true)]
    os_auth_type: Option<String>,
    /// Where the Compute API is, if no catalog tells (OS_ENDPOINT)
    #[arg(long, value_name = "URL", global = true, hide_short_help = true)]
    os_endpoint: Option<String>,
    /// Where the identity service is (OS_AUTH_URL)
    #[arg(long, value_name = "URL", global = true, hide_short_help = true)]
    os_auth_url: Option<String>,
    /// Who you are (OS_USERNAME); the password comes from OS_PASSWORD, clouds.yaml or secure.yaml
    #[arg(long, value_name = "NAME", global = true, hide_short_help = true)]
    os_username: Option<String>,
    /// Whom you act for (OS_PROJECT_NAME)
    #[arg(long, value_name = "NAME", global = true, hide_short_help = true)]
    os_project_name: Option<String>,
    /// Whom you act for (OS_PROJECT_ID)
    #[arg(long, value_name = "ID", global = true, hide_short_help = true)]
    os_project_id: Option<String>,
    /// The user's domain (OS_USER_DOMAIN_NAME)
    #[arg(long, value_name = "NAME", global = true, hide_short_help = true)]
    os_user_domain_name: Option<String>,
    /// The project's domain (OS_PROJECT_DOMAIN_NAME)
    #[arg(long, value_name = "NAME", global = true, hide_short_help = true)]
    os_project_domain_name: Option<String>,
    /// The region to choose of the catalog (OS_REGION_NAME)
    #[arg(long, value_name = "NAME", global = true, hide_short_help = true)]
    os_region_name: Option<String>,
    /// public, internal or admin addresses of the catalog (OS_INTERFACE)
    #[arg(long, value_name = "KIND", global = true, hide_short_help = true)]
    os_interface: Option<String>,
    /// Certificates of authorities to trust besides those of the system (OS_CACERT)
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    os_cacert: Option<PathBuf>,
    /// Trust every certificate: whoever is in between can read and change everything
    #[arg(long, global = true, hide_short_help = true)]
    insecure: bool,
    /// The version of the Compute API to ask by (OS_COMPUTE_API_VERSION)
    #[arg(long, value_name = "VERSION", global = true, hide_short_help = true)]
    os_compute_api_version: Option<String>,
}

impl CloudOptions {
    /// What was said, by the names of `clouds.yaml`.
    pub(crate) fn said(&self) -> BTreeMap<&'static str, String> {
        let cacert = self.os_cacert.as_ref().map(|path| path.display().to_string());
        let pairs = [
            ("cloud", self.os_cloud.clone()),
            ("auth_type", self.os_auth_type.clone()),
            ("endpoint", self.os_endpoint.clone()),
            ("auth_url", self.os_auth_url.clone()),
            ("username", self.os_username.clone()),
            ("project_name", self.os_project_name.clone()),
            ("project_id", self.os_project_id.clone()),
            ("user_domain_name", self.os_user_domain_name.clone()),
            ("project_domain_name", self.os_project_domain_name.clone()),
            ("region_name", self.os_region_name.clone()),
            ("interface", self.os_interface.clone()),
            ("cacert", cacert),
            ("insecure", self.insecure.then(|| "true".to_owned())),
            ("compute_api_version", self.os_compute_api_version.clone()),
        ];
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no help");
            for argument in command.get_arguments() {
                let known = argument.get_help().is_some();
                assert!(known, "{path}: {} has no help", argument.get_id());
            }
            command.get_subcommands().for_each(|inner| check(inner, &path));
        }
        check(&Cli::command(), "");
    }

    #[test]
    fn no_secret_can_be_put_on_the_command_line() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                assert!(!name.contains("password") && !name.contains("secret"), "{name}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
