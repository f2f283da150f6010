# Images of all services. `docker build --target api .`; targets: api, conductor, scheduler, compute, tools.
#
# Nothing here needs BuildKit. Both bases can be replaced, by mirrors or by bases that were made without a registry:
#   BUILD_IMAGE  a Debian with Rust
#   BASE_IMAGE   a Debian 12; if it lacks what a target needs, that is installed
# Programs that were built before are taken from dist/ of the build context instead of being built.
ARG BUILD_IMAGE=rust:1-bookworm
ARG BASE_IMAGE=debian:12-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
RUN scripts/image-programs.sh /out

# No settings here: they would override those of a configuration file.
# A user of fixed number, so that orchestrators can check that it is not root, and own what it writes.
FROM ${BASE_IMAGE} AS base
RUN groupadd --gid 10001 whimbrel \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/whimbrel --shell /usr/sbin/nologin whimbrel \
 && install -d -o 10001 -g 10001 /var/lib/whimbrel /var/lib/whimbrel/images /var/lib/whimbrel/state /var/lib/whimbrel/world \
 && install -d /etc/whimbrel
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="whimbrel" \
      org.opencontainers.image.description="Control plane for VM migration" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
EXPOSE 9464
USER 10001:10001

FROM base AS api
COPY --from=build /out/whimbrel-api /usr/local/bin/
EXPOSE 8774
VOLUME /var/lib/whimbrel/images
ENTRYPOINT ["whimbrel-api"]

FROM base AS conductor
COPY --from=build /out/whimbrel-conductor /usr/local/bin/
ENTRYPOINT ["whimbrel-conductor"]

FROM base AS scheduler
COPY --from=build /out/whimbrel-scheduler /usr/local/bin/
ENTRYPOINT ["whimbrel-scheduler"]

# Speaks to the host's libvirt through its socket. With the simulated hypervisor it needs no privilege; with a real one
# it runs as root, because libvirt's socket and guests' disks are root's (docker-compose.libvirt.yml, charts/whimbrel).
FROM base AS compute
USER root
RUN if ! ldconfig -p | grep -q 'libvirt\.so\.0'; then \
      apt-get update && apt-get install -y --no-install-recommends libvirt0 && rm -rf /var/lib/apt/lists/*; \
    fi
ARG WITH_QEMU_IMG=yes
RUN if [ "$WITH_QEMU_IMG" = yes ] && ! command -v qemu-img >/dev/null; then \
      apt-get update && apt-get install -y --no-install-recommends qemu-utils && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build /out/whimbrel-compute /usr/local/bin/
VOLUME /var/lib/whimbrel/state
USER 10001:10001
ENTRYPOINT ["whimbrel-compute"]

# For jobs and people: brings the database to the schema of this release.
FROM base AS tools
COPY --from=build /out/whimbrel-db /usr/local/bin/
ENTRYPOINT ["whimbrel-db"]
CMD ["status"]
