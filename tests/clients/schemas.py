"""Calls every route that Tempest has a client for, at several microversions, and lets Tempest's own schemas judge each
answer.

    schemas.py URL    where URL is that of the Compute API, with a server named `guest`, a flavor `1` and hosts

Ends with status 1 and a line for each answer that a schema does not accept.
"""

import sys
import warnings

warnings.filterwarnings("ignore")

from tempest.lib import exceptions  # noqa: E402
from tempest.lib.services import compute  # noqa: E402
from tempest.lib.services.compute import base_compute_client  # noqa: E402

# One before and one after each change that the schemas know, as far as we offer it.
VERSIONS = [
    "2.1", "2.2", "2.3", "2.8", "2.9", "2.10", "2.11", "2.13", "2.16", "2.19", "2.23", "2.26", "2.28", "2.33", "2.35",
    "2.36", "2.45", "2.47", "2.48", "2.50", "2.51", "2.53", "2.54", "2.55", "2.57", "2.58", "2.59", "2.61", "2.62",
    "2.63", "2.64", "2.70", "2.71", "2.73", "2.75", "2.79", "2.80", "2.84", "2.88", "2.89", "2.90", "2.92", "2.96",
]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here"


class Open:
    """An auth provider for a service that asks nobody who they are."""

    def __init__(self, url):
        self.url = url

    def auth_request(self, method, url, headers=None, body=None, filters=None):
        return f"{self.url}/{url}", headers, body

    def base_url(self, filters, auth_data=None):
        return self.url

    def is_expired(self, auth_data):
        return False


class Judge:
    def __init__(self, url):
        self.url = url
        self.calls = 0
        self.bad = {}

    def client(self, kind):
        return kind(Open(self.url), "compute", "region")

    def call(self, version, what, *arguments, gone=None, **named):
        """`gone` is the minor version from which 404 is right."""
        base_compute_client.COMPUTE_MICROVERSION = None if version == "2.1" else version
        self.calls += 1
        try:
            return what(*arguments, **named)
        except exceptions.NotFound:
            if gone is None or int(version[2:]) < gone:
                self.bad.setdefault(f"{what.__name__}: 404", []).append(version)
        except Exception as error:  # What a schema does not accept, and whatever else goes wrong.
            text = " ".join(str(error).split())
            self.bad.setdefault(f"{what.__name__}: {text[:600]}", []).append(version)
        return None


def judge_version(judge, version, server, image):
    minor = int(version[2:])
    servers = judge.client(compute.ServersClient)
    judge.call(version, servers.list_servers)
    judge.call(version, servers.list_servers, detail=True)
    judge.call(version, servers.show_server, server)
    judge.call(version, servers.update_server, server, name="guest")
    judge.call(version, servers.list_server_metadata, server)
    judge.call(version, servers.set_server_metadata, server, {"a": "b"})
    judge.call(version, servers.update_server_metadata, server, {"c": "d"})
    judge.call(version, servers.show_server_metadata_item, server, "a")
    judge.call(version, servers.set_server_metadata_item, server, "a", {"a": "e"})
    judge.call(version, servers.delete_server_metadata_item, server, "a")
    judge.call(version, servers.list_addresses, server)
    judge.call(version, servers.list_addresses_by_network, server, "net")
    actions = judge.call(version, servers.list_instance_actions, server)
    if actions:
        request = actions["instanceActions"][0]["request_id"]
        judge.call(version, servers.show_instance_action, server, request)
    judge.call(version, servers.list_security_groups_by_server, server)
    judge.call(version, servers.lock_server, server)
    judge.call(version, servers.unlock_server, server)
    if minor >= 26:
        judge.call(version, servers.update_all_tags, server, ["x", "y"])
        judge.call(version, servers.list_tags, server)
        judge.call(version, servers.update_tag, server, "z")
        judge.call(version, servers.check_tag_existence, server, "z")
        judge.call(version, servers.delete_tag, server, "z")
        judge.call(version, servers.delete_all_tags, server)

    flavors = judge.client(compute.FlavorsClient)
    judge.call(version, flavors.list_flavors)
    judge.call(version, flavors.list_flavors, detail=True)
    judge.call(version, flavors.show_flavor, "1")
    named = {"name": f"f{minor}", "ram": 64, "vcpus": 1, "disk": 1, "id": f"f{minor}"}
    judge.call(version, flavors.create_flavor, **{**named, "os-flavor-access:is_public": False})
    judge.call(version, flavors.set_flavor_extra_spec, f"f{minor}", a="b")
    judge.call(version, flavors.list_flavor_extra_specs, f"f{minor}")
    judge.call(version, flavors.show_flavor_extra_spec, f"f{minor}", "a")
    judge.call(version, flavors.update_flavor_extra_spec, f"f{minor}", "a", a="c")
    judge.call(version, flavors.unset_flavor_extra_spec, f"f{minor}", "a")
    judge.call(version, flavors.add_flavor_access, f"f{minor}", "other")
    judge.call(version, flavors.list_flavor_access, f"f{minor}")
    judge.call(version, flavors.remove_flavor_access, f"f{minor}", "other")
    if minor >= 55:
        judge.call(version, flavors.update_flavor, f"f{minor}", description="d")
    judge.call(version, flavors.delete_flavor, f"f{minor}")

    services = judge.client(compute.ServicesClient)
    listed = judge.call(version, services.list_services, binary="nova-compute")
    if listed and minor >= 53:
        service = listed["services"][0]["id"]
        judge.call(version, services.update_service, service, status="enabled")
    elif listed:
        host = listed["services"][0]["host"]
        judge.call(version, services.disable_service, host=host, binary="nova-compute")
        reason = {"host": host, "binary": "nova-compute", "disabled_reason": "x"}
        judge.call(version, services.disable_log_reason, **reason)
        judge.call(version, services.enable_service, host=host, binary="nova-compute")

    hypervisors = judge.client(compute.HypervisorClient)
    listed = judge.call(version, hypervisors.list_hypervisors)
    if listed:
        one = listed["hypervisors"][0]
        # The schemas do not know yet what 2.88 made of these two.
        if minor < 88:
            judge.call(version, hypervisors.list_hypervisors, detail=True)
            judge.call(version, hypervisors.show_hypervisor, one["id"])
        judge.call(version, hypervisors.show_hypervisor_statistics, gone=88)
        judge.call(version, hypervisors.show_hypervisor_uptime, one["id"], gone=88)
        name = one["hypervisor_hostname"]
        judge.call(version, hypervisors.search_hypervisor, name, gone=53)
        judge.call(version, hypervisors.list_servers_on_hypervisor, name, gone=53)

    zones = judge.client(compute.AvailabilityZoneClient)
    judge.call(version, zones.list_availability_zones)
    judge.call(version, zones.list_availability_zones, detail=True)

    aggregates = judge.client(compute.AggregatesClient)
    made = judge.call(version, aggregates.create_aggregate, name="set", availability_zone="zone")
    if made:
        number = made["aggregate"]["id"]
        judge.call(version, aggregates.list_aggregates)
        judge.call(version, aggregates.show_aggregate, number)
        judge.call(version, aggregates.update_aggregate, number, name="other")
        judge.call(version, aggregates.add_host, number, host="spare")
        judge.call(version, aggregates.set_metadata, number, metadata={"a": "b"})
        judge.call(version, aggregates.remove_host, number, host="spare")
        judge.call(version, aggregates.delete_aggregate, number)

    keys = judge.client(compute.KeyPairsClient)
    judge.call(version, keys.create_keypair, name="key", public_key=KEY)
    judge.call(version, keys.list_keypairs)
    judge.call(version, keys.show_keypair, "key")
    judge.call(version, keys.delete_keypair, "key")

    groups = judge.client(compute.ServerGroupsClient)
    policy = {"policy": "affinity"} if minor >= 64 else {"policies": ["affinity"]}
    made = judge.call(version, groups.create_server_group, name="group", **policy)
    if made:
        judge.call(version, groups.list_server_groups)
        judge.call(version, groups.show_server_group, made["server_group"]["id"])
        judge.call(version, groups.delete_server_group, made["server_group"]["id"])

    quotas = judge.client(compute.QuotasClient)
    judge.call(version, quotas.show_quota_set, "default")
    judge.call(version, quotas.show_quota_set, "default", detail=True)
    judge.call(version, quotas.show_default_quota_set, "default")
    judge.call(version, quotas.update_quota_set, "default", instances=-1)
    judge.call(version, quotas.delete_quota_set, "default")

    judge.call(version, judge.client(compute.LimitsClient).show_limits)
    judge.call(version, judge.client(compute.ExtensionsClient).list_extensions)
    judge.call(version, judge.client(compute.MigrationsClient).list_migrations)
    images = judge.client(compute.ImagesClient)
    judge.call(version, images.list_images, gone=36)
    judge.call(version, images.list_images, detail=True, gone=36)
    judge.call(version, images.show_image, image, gone=36)
    judge.call(version, judge.client(compute.InterfacesClient).list_interfaces, server)


def main():
    judge = Judge(sys.argv[1].rstrip("/"))
    servers = judge.client(compute.ServersClient)
    guest = judge.call("2.1", servers.list_servers, detail=True)["servers"][0]
    for version in VERSIONS:
        judge_version(judge, version, guest["id"], guest["image"]["id"])
    for text, versions in judge.bad.items():
        print(f"{', '.join(versions)}: {text}")
    print(f"{judge.calls} calls, {sum(map(len, judge.bad.values()))} not accepted")
    sys.exit(1 if judge.bad else 0)


main()
