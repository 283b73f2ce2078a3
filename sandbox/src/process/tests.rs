use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::PidfdFlags;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Process {
    Process::new("/bin/sh", ["-c", script])
}

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test]
async fn a_process_sees_its_environment_and_nothing_else() {
    let process = shell("echo \"A=$A HOME=$HOME\"; echo to stderr >&2");
    process.start(&environment(&[("A", "1")])).await.unwrap();
    let line = process.wait_for_log("A=", PATIENCE).await.unwrap();
    assert_eq!(line, "A=1 HOME=");
    assert!(process.wait_for_exit(PATIENCE).await.unwrap().success());
    assert!(process.log().lines().contains(&"to stderr".to_owned()));
}

#[tokio::test]
async fn a_process_that_heeds_sigterm_is_not_killed() {
    let process = shell("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done");
    process
        .start(&environment(&[("PATH", "/usr/bin:/bin")]))
        .await
        .unwrap();
    process.wait_for_log("up", PATIENCE).await.unwrap();
    let stopped = process.terminate(PATIENCE).await.unwrap();
    assert_eq!((stopped.status.code(), stopped.killed), (Some(3), false));
    assert!(process.log().lines().contains(&"bye".to_owned()));
    assert!(!process.is_running());
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_after_the_grace() {
    let process = shell("trap '' TERM; echo up; while :; do sleep 0.01; done");
    process
        .start(&environment(&[("PATH", "/usr/bin:/bin")]))
        .await
        .unwrap();
    process.wait_for_log("up", PATIENCE).await.unwrap();
    let grace = Duration::from_millis(100);
    let stopped = process.terminate(grace).await.unwrap();
    assert!(stopped.killed && stopped.took >= grace, "{stopped:?}");
    assert_eq!(stopped.status.code(), None);
}

#[tokio::test]
async fn a_restart_has_the_new_environment_and_the_old_log() {
    let process = shell("echo \"A=$A\"; exec sleep 1000");
    for value in ["1", "2"] {
        let all = environment(&[("PATH", "/usr/bin:/bin"), ("A", value)]);
        process.start(&all).await.unwrap();
        process
            .wait_for_log(&format!("A={value}"), PATIENCE)
            .await
            .unwrap();
    }
    assert_eq!(process.log().lines(), ["A=1", "A=2"]);
    process.kill_9().await.unwrap();
    assert!(matches!(
        process.kill_9().await,
        Err(ProcessError::NotRunning { .. })
    ));
}

#[tokio::test]
async fn a_dropped_process_is_killed() {
    let process = shell("exec sleep 1000");
    process
        .start(&environment(&[("PATH", "/usr/bin:/bin")]))
        .await
        .unwrap();
    let pid = process.running_or_ended().unwrap().pid;
    // readable once the process has ended (pidfd_open(2))
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    drop(process);
    let mut polled = [PollFd::new(&ended, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut polled, Some(&patience)).unwrap(), 1);
}

#[tokio::test]
async fn a_running_process_has_figures() {
    let process = shell("echo up; while :; do /bin/sleep 0.01; done");
    process.start(&Environment::new()).await.unwrap();
    // the kernel's count of pages lags behind a young process by up to 64 of them
    process.wait_for_log("up", PATIENCE).await.unwrap();
    assert!(process.memory_rss_bytes().unwrap() > 10_000);
    assert!(process.memory_peak_bytes().unwrap() > 10_000);
    assert!(process.cpu_seconds().unwrap() < 1.0);
    process.io_write_bytes().unwrap();
}

#[tokio::test]
async fn a_missing_program_and_a_missing_line_are_plain_errors() {
    let missing = Process::new("/nonexistent/relay", std::iter::empty::<String>());
    let error = missing.start(&Environment::new()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot start /nonexistent/relay"),
        "{error}"
    );
    let process = shell("echo something else");
    process.start(&Environment::new()).await.unwrap();
    process.wait_for_exit(PATIENCE).await.unwrap();
    let error = process
        .wait_for_log("wanted", Duration::from_millis(10))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("| something else"), "{error}");
}

#[tokio::test]
async fn an_open_standard_input_stays_open_and_the_usual_one_is_empty() {
    let script = "read -r line; echo \"ended\"";
    let usual = shell(script);
    usual.start(&Environment::new()).await.unwrap();
    usual.wait_for_log("ended", PATIENCE).await.unwrap();
    let open = shell(&format!("echo up; {script}")).with_open_stdin();
    open.start(&Environment::new()).await.unwrap();
    open.wait_for_log("up", PATIENCE).await.unwrap();
    // Not SIGINT: a shell ignores it for what it has put in the background, these tests perhaps.
    let stopped = open.terminate(PATIENCE).await.unwrap();
    assert!(!stopped.killed);
    assert_eq!(open.log().lines(), ["up"]);
}
