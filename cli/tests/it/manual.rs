//! Completions and manual pages.

use serde_json::json;

use crate::program::Program;

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_manual_pages_need_no_cloud() {
    let program = Program::with(&json!({ "auth_type": "unknown" }));
    for (shell, part) in
        [("bash", "_whimbrel()"), ("zsh", "#compdef whimbrel"), ("fish", "complete -c whimbrel")]
    {
        let script = program.ok(&format!("completion {shell}")).await;
        assert!(script.contains(part) && script.contains("force-complete"), "{shell}");
    }
    let page = program.ok("man").await;
    assert!(page.contains(".TH whimbrel 1") && page.contains("Exit status"), "{page}");
    program.ok("man --folder pages").await;
    let page = program.read("pages/whimbrel-server-migrate.1");
    assert!(page.contains("block\\-migration") && page.contains("Examples"), "{page}");
    let help = program.ok("--help").await;
    for line in ["  3    the service said no", "whimbrel host drain host-a"] {
        assert!(help.contains(line), "{help}");
    }
    program.fails("completion tcsh", 2, "possible values").await;
    program.fails("server list", 2, "Offered are none, http_basic").await;
}
