# A thin list of the commands that a person types. What they do is in scripts/ and in tests/lab.
LAB = target/debug/whimbrel-lab
SUDO = $(if $(filter-out 0,$(shell id -u)),sudo --preserve-env=PATH)

.PHONY: soak setup build demo test up down status bench servers compose-test chart-test

setup:    ; @scripts/setup.sh
build:    setup ; cargo build --quiet --workspace --bins
demo:     build ; $(SUDO) $(LAB) demo
test:     ; @scripts/test.sh
up:       build ; $(SUDO) $(LAB) up
down:     build ; $(SUDO) $(LAB) down
status:   build ; $(SUDO) $(LAB) status
# Optimised, unlike everything else: what is measured is what would be deployed.
bench:    setup ; cargo build --release --quiet --workspace --bins && $(SUDO) target/release/whimbrel-lab bench
# The simulated control plane and kill rounds of real ones for SOAK_MINUTES: one line of counts, and status 1 if anything did not hold.
SOAK_MINUTES ?= 10
soak:     setup ; @scripts/soak.sh $(SOAK_MINUTES)
# The private servers that tests need, until Ctrl-C; prints what to set.
servers:  build ; $(LAB) servers show
# Containers and the chart: install what they need, and remove what they start. compose-test needs root.
compose-test: ; @scripts/compose-test.sh
chart-test:   ; @scripts/chart-test.sh
