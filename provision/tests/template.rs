//! The SAM template, checked by AWS's translator and by cfn-lint, which must also find planted faults.

mod common;

use common::{path, run, tool};

#[tokio::test]
async fn the_template_is_sound_and_planted_faults_are_found() {
    let python = tool("venv/bin/python").display().to_string();
    let script = path("provision/tests/peers/check_template.py");
    let output = run(&python, &[&script]).await;
    println!("{}", output.join("\n"));
    let caught = output.iter().filter(|line| line.starts_with("caught "));
    assert_eq!(caught.count(), 8);
    assert_eq!(output.last().map(String::as_str), Some("template is sound"));
}
