//! `whimbrel-compute`: the compute service's process.

fn main() -> std::process::ExitCode {
    whimbrel_service::main("whimbrel-compute", whimbrel_compute::run)
}
