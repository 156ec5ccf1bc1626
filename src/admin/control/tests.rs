//! The control socket as its callers see it.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::audit;

const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    folder: TempDir,
    audit: AuditLog,
    metrics: Arc<Metrics>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new());
        let settings = audit::Settings::at(folder.path().join("audit.jsonl"));
        let audit = AuditLog::open(&settings, Arc::clone(&metrics)).unwrap();
        Self { folder, audit, metrics }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("run/control.sock")
    }

    fn bind(&self, handle: ControlHandle) -> io::Result<Control> {
        self.bind_for(handle, &[], &[])
    }

    fn bind_for(
        &self,
        handle: ControlHandle,
        uids: &[u32],
        authority_uids: &[u32],
    ) -> io::Result<Control> {
        let (uids, authority_uids) = (uids.to_vec(), authority_uids.to_vec());
        let settings = Settings { path: self.path(), uids, authority_uids };
        Control::bind(settings, handle, self.audit.clone())
    }

    fn serve(&self, control: Control) -> JoinSet<()> {
        let mut task = JoinSet::new();
        task.spawn(control.serve(Arc::clone(&self.metrics)));
        task
    }

    async fn call(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path()).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn audited(&self) -> Vec<Value> {
        assert!(self.audit.flush(PATIENCE));
        let text = fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn obedient() -> ControlHandle {
    ControlHandle::new(|command| async move {
        match command {
            Command::Status => Response::Done(json!({ "epoch": 7 })),
            Command::Reload => Response::Failed("line 3: unexpected `;`".to_owned()),
            Command::Explain(question) => Response::Done(json!(question.facts)),
            Command::Revocations { .. } => Response::Done(json!({ "certificates": 1 })),
            Command::Backup => Response::Failed("there is no store".to_owned()),
            Command::Ban { uid, .. } | Command::Device { uid, .. } => Response::Done(json!(uid)),
            Command::Survey => Response::Failed("nobody is here".to_owned()),
        }
    })
}

/// Answers a backup with these parts, and says nothing more.
fn sending(parts: Vec<Part>) -> ControlHandle {
    ControlHandle::new(move |_| {
        let (sender, receiver) = mpsc::channel(parts.len().max(1));
        for part in parts.clone() {
            sender.try_send(part).unwrap();
        }
        async move { Reply::Stream(receiver) }
    })
}

#[tokio::test]
async fn the_authority_says_what_it_has_done_and_the_log_has_it() {
    let bench = Bench::new();
    let _task = bench.serve(bench.bind(obedient()).unwrap());
    let command = Command::Revocations { about: "revoked: 1".to_owned() };
    let mut line = serde_json::to_vec(&Request::from(command)).unwrap();
    line.push(b'\n');
    assert_eq!(bench.call(&line).await, "{\"done\":{\"certificates\":1}}\n");
    let answer = bench.call(b"{\"verb\":\"status\",\"about\":\"x\"}\n").await;
    assert!(answer.contains("only revocations"), "{answer}");
    let audited = bench.audited();
    assert_eq!(audited[0]["verb"], "revocations");
    assert_eq!(audited[0]["about"], "revoked: 1");
}

#[tokio::test]
async fn a_call_is_answered_and_audited() {
    let bench = Bench::new();
    let _task = bench.serve(bench.bind(obedient()).unwrap());
    assert_eq!(bench.call(b"{\"verb\":\"status\"}\n").await, "{\"done\":{\"epoch\":7}}\n");
    assert_eq!(
        bench.call(b"{\"verb\":\"reload\"}\n").await,
        "{\"failed\":\"line 3: unexpected `;`\"}\n"
    );
    let audited = bench.audited();
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(audited[0]["event"], "control.call");
    assert_eq!(audited[0]["uid"], uid);
    assert_eq!(audited[0]["verb"], "status");
    assert_eq!(audited[0]["outcome"], "done");
    assert_eq!(audited[1]["verb"], "reload");
    assert_eq!(audited[1]["outcome"], "failed");
    assert_eq!(audited[1]["why"], "line 3: unexpected `;`");
}

#[tokio::test]
async fn a_question_is_answered_and_the_audit_log_says_about_whom() {
    let bench = Bench::new();
    let _task = bench.serve(bench.bind(obedient()).unwrap());
    let question = SessionQuestion {
        client_id: "dev1".to_owned(),
        action: "publish".to_owned(),
        resource: "a/b".to_owned(),
        facts: vec![("qos".to_owned(), "1".to_owned())],
    };
    let mut request = serde_json::to_vec(&Request::from(Command::Explain(question))).unwrap();
    request.push(b'\n');
    assert_eq!(bench.call(&request).await, "{\"done\":[[\"qos\",\"1\"]]}\n");
    let audited = &bench.audited()[0];
    assert_eq!(audited["verb"], "explain");
    assert_eq!(audited["outcome"], "done");
    assert_eq!(audited["about"], "dev1: publish a/b");
}

#[tokio::test]
async fn what_follows_an_answer_is_on_record_when_it_begins_and_when_it_ended() {
    let bytes = |text: &'static str| Part::Bytes(Bytes::from_static(text.as_bytes()));
    for (parts, end) in [
        (vec![bytes("a"), bytes("b"), Part::All("2 records".to_owned())], "2 records"),
        (vec![bytes("ab"), Part::Failed("no disk".to_owned())], "no disk"),
        (vec![bytes("ab")], "whoever made it has ended"),
    ] {
        let bench = Bench::new();
        let _task = bench.serve(bench.bind(sending(parts)).unwrap());
        assert_eq!(bench.call(b"{\"verb\":\"backup\"}\n").await, "{\"done\":null}\nab");
        while bench.audited().len() < 2 {
            tokio::task::yield_now().await;
        }
        let audited = bench.audited();
        assert_eq!(
            (&audited[0]["verb"], &audited[0]["about"]),
            (&json!("backup"), &json!("begins"))
        );
        let key = if audited[1]["outcome"] == "done" { "about" } else { "why" };
        assert_eq!((&audited[1]["verb"], &audited[1][key]), (&json!("backup"), &json!(end)));
    }
}

#[tokio::test]
async fn a_caller_that_takes_no_more_meets_the_deadline_of_a_part() {
    let bench = Bench::new();
    let parts = vec![Part::Bytes(vec![0; 1 << 20].into()); 4];
    let mut control = bench.bind(sending(parts)).unwrap();
    Arc::get_mut(&mut control.shared).unwrap().part_deadline = Duration::from_millis(20);
    let _task = bench.serve(control);
    let mut stream = UnixStream::connect(bench.path()).await.unwrap();
    stream.write_all(b"{\"verb\":\"backup\"}\n").await.unwrap();
    while bench.audited().len() < 2 {
        tokio::task::yield_now().await;
    }
    let why = bench.audited()[1]["why"].as_str().unwrap().to_owned();
    assert!(why.starts_with("the caller did not take it"), "{why}");
}

#[tokio::test]
async fn a_caller_that_is_slow_all_the_time_is_left() {
    let bench = Bench::new();
    // Two bytes in the time that one system call takes are not enough.
    let parts = vec![Part::Bytes(Bytes::from_static(b"ab")); 64];
    let mut control = bench.bind(sending(parts)).unwrap();
    Arc::get_mut(&mut control.shared).unwrap().pace_from = Duration::ZERO;
    let _task = bench.serve(control);
    bench.call(b"{\"verb\":\"backup\"}\n").await;
    while bench.audited().len() < 2 {
        tokio::task::yield_now().await;
    }
    let why = bench.audited()[1]["why"].as_str().unwrap().to_owned();
    assert!(why.starts_with("the caller takes less than 4 MiB a second"), "{why}");
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_audited() {
    let bench = Bench::new();
    let _task = bench.serve(bench.bind(obedient()).unwrap());
    let too_long = [b'x'; 4 * 1024];
    for request in [
        &b"\n"[..],
        b"reload\n",
        b"{\"verb\":\"shutdown\"}\n",
        b"{\"verb\":\"reload\",\"path\":\"/etc/passwd\"}\n",
        b"{\"verb\":\"reload\"} {\"verb\":\"reload\"}\n",
        b"{\"verb\":\"explain\"}\n",
        b"{\"verb\":\"explain\",\"question\":{\"client_id\":\"d\",\"action\":\"publish\"}}\n",
        b"{\"verb\":\"status\",\"question\":{\"client_id\":\"d\",\"action\":\"publish\",\"resource\":\"a\"}}\n",
        &too_long,
    ] {
        let answer = bench.call(request).await;
        assert!(answer.starts_with("{\"failed\":"), "{answer}");
    }
    let audited = bench.audited();
    assert_eq!(audited.len(), 9);
    for line in audited {
        assert_eq!((&line["verb"], &line["outcome"]), (&Value::Null, &json!("failed")));
    }
}

#[tokio::test]
async fn a_caller_that_is_not_on_the_list_is_refused_before_it_is_read() {
    let bench = Bench::new();
    let mut control = bench.bind(obedient()).unwrap();
    Arc::get_mut(&mut control.shared).unwrap().own_uid = u32::MAX;
    let _task = bench.serve(control);
    for _ in 0..2 * TURNED_AWAY_RECORDED_PER_SECOND {
        let mut stream = UnixStream::connect(bench.path()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("may not control"), "{answer}");
    }
    let audited = bench.audited();
    let calls = audited.iter().filter(|line| line["event"] == "control.call");
    assert!(calls.count() < 2 * TURNED_AWAY_RECORDED_PER_SECOND as usize, "{audited:?}");
    assert_eq!(audited[0]["outcome"], "failed");
}

#[tokio::test]
async fn the_authoritys_user_may_say_one_thing() {
    let bench = Bench::new();
    let own = rustix::process::geteuid().as_raw();
    let mut control = bench.bind_for(obedient(), &[], &[own]).unwrap();
    // Whoever calls here is somebody else.
    let shared = Arc::get_mut(&mut control.shared).unwrap();
    (shared.own_uid, shared.heard) = (u32::MAX, RecordLimit::per_second(100));
    let _task = bench.serve(control);
    let answer = bench.call(b"{\"verb\":\"revocations\",\"about\":\"revoked: 1\"}\n").await;
    assert_eq!(answer, "{\"done\":{\"certificates\":1}}\n");
    for verb in ["status", "reload", "backup", "survey"] {
        let answer = bench.call(format!("{{\"verb\":\"{verb}\"}}\n").as_bytes()).await;
        assert!(answer.contains("may only say that certificates"), "{verb}: {answer}");
    }
    let ban = b"{\"verb\":\"ban\",\"ban\":{\"list\":{}}}\n";
    assert!(bench.call(ban).await.starts_with("{\"failed\":"));
    let audited = bench.audited();
    assert_eq!((&audited[0]["outcome"], &audited[0]["uid"]), (&json!("done"), &json!(own)));
    assert!(audited[1..].iter().all(|line| line["outcome"] == "failed"), "{audited:?}");
}

/// It would keep an operator waiting, and fill the log.
#[tokio::test]
async fn the_authoritys_user_is_refused_beyond_one_call_at_a_time_and_some_a_second() {
    let bench = Bench::new();
    let own = rustix::process::geteuid().as_raw();
    let mut control = bench.bind_for(obedient(), &[], &[own]).unwrap();
    Arc::get_mut(&mut control.shared).unwrap().own_uid = u32::MAX;
    let _task = bench.serve(control);
    let idle = UnixStream::connect(bench.path()).await.unwrap();
    let refused = async {
        let mut stream = UnixStream::connect(bench.path()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    // No time passes while somebody waits for a place.
    let answer = timeout(DEADLINE / 2, refused).await.unwrap();
    assert!(answer.contains("one call at a time"), "{answer}");
    drop(idle);
    let mut answers = Vec::new();
    let call = b"{\"verb\":\"revocations\",\"about\":\"revoked: 1\"}\n";
    while answers.len() < 100 {
        let mut stream = UnixStream::connect(bench.path()).await.unwrap();
        // Whoever is not heard may be gone before all is said.
        let _ = stream.write_all(call).await;
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer).await;
        answers.push(answer);
    }
    assert!(answers.iter().any(|answer| answer.contains("\"done\"")), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.contains("4 times a second")), "{answers:?}");
}

#[tokio::test]
async fn what_a_call_is_about_is_bounded() {
    let bench = Bench::new();
    let _task = bench.serve(bench.bind(obedient()).unwrap());
    for (bytes, is_heard) in [(ABOUT_BYTES_MAX, true), (ABOUT_BYTES_MAX + 1, false)] {
        let about = "x".repeat(bytes);
        let call = format!("{{\"verb\":\"revocations\",\"about\":\"{about}\"}}\n");
        let answer = bench.call(call.as_bytes()).await;
        assert_eq!(answer.contains("done"), is_heard, "{answer}");
    }
}

#[test]
fn each_user_has_its_rights_and_others_have_none() {
    let (uids, authority_uids) = (vec![0, 7], vec![8, 7]);
    let settings = Settings { path: "run/s".into(), uids, authority_uids };
    for (uid, rights) in [
        (5, Some(Rights::All)),
        (0, Some(Rights::All)),
        (7, Some(Rights::All)),
        (8, Some(Rights::Revocations)),
        (9, None),
        (65534, None),
    ] {
        assert_eq!(settings.rights(uid, 5), rights, "{uid}");
    }
}

#[tokio::test]
async fn the_folder_is_open_to_others_only_where_others_may_call() {
    let own = rustix::process::geteuid().as_raw();
    let other = own + 1;
    for (uids, authority_uids, folder, socket) in [
        (&[][..], &[][..], 0o700, 0o600),
        (&[0, own][..], &[own][..], 0o700, 0o600),
        (&[other][..], &[][..], 0o711, 0o666),
        (&[][..], &[other][..], 0o711, 0o666),
    ] {
        let bench = Bench::new();
        let _control = bench.bind_for(obedient(), uids, authority_uids).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(bench.path().parent().unwrap()), folder, "{uids:?} {authority_uids:?}");
        assert_eq!(mode(&bench.path()), socket, "{uids:?} {authority_uids:?}");
    }
    // One that is there is not opened without a word.
    let bench = Bench::new();
    fs::DirBuilder::new().mode(0o700).create(bench.path().parent().unwrap()).unwrap();
    let error = bench.bind_for(obedient(), &[other], &[]).unwrap_err();
    assert!(error.to_string().contains("since other users may call, with mode 0711"), "{error}");
}

#[tokio::test]
async fn a_silent_caller_meets_the_deadline() {
    let bench = Bench::new();
    let mut control = bench.bind(obedient()).unwrap();
    Arc::get_mut(&mut control.shared).unwrap().deadline = Duration::ZERO;
    let mut stream = UnixStream::connect(bench.path()).await.unwrap();
    stream.write_all(b"{\"verb\":").await.unwrap();
    let _task = bench.serve(control);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "{\"failed\":\"the request took too long\"}\n");
}

#[tokio::test]
async fn two_reloads_never_run_at_a_time() {
    let bench = Bench::new();
    let running = Arc::new(AtomicU32::new(0));
    let handle = ControlHandle::new(move |_| {
        let running = Arc::clone(&running);
        async move {
            let others = running.fetch_add(1, Ordering::SeqCst);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            running.fetch_sub(1, Ordering::SeqCst);
            Response::Done(json!(others))
        }
    });
    let _task = bench.serve(bench.bind(handle).unwrap());
    let call = || bench.call(b"{\"verb\":\"reload\"}\n");
    let (a, b, c) = tokio::join!(call(), call(), call());
    assert_eq!([a, b, c], ["{\"done\":0}\n"; 3]);
}

#[tokio::test]
async fn a_panic_ends_one_call_only_and_is_audited() {
    let bench = Bench::new();
    let handle = ControlHandle::new(|command| async move {
        assert!(command == Command::Status, "on purpose");
        Response::Done(Value::Null)
    });
    let _task = bench.serve(bench.bind(handle).unwrap());
    assert_eq!(bench.call(b"{\"verb\":\"reload\"}\n").await, "");
    assert_eq!(bench.call(b"{\"verb\":\"status\"}\n").await, "{\"done\":null}\n");
    assert_eq!(bench.metrics.panics.get(), 1);
    assert_eq!(bench.audited()[0]["event"], "task.panicked");
}

#[tokio::test]
async fn the_socket_and_its_folder_are_private() {
    let bench = Bench::new();
    let control = bench.bind(obedient()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&bench.path()), 0o600);
    assert_eq!(mode(bench.path().parent().unwrap()), 0o700);
    drop(control);
    assert!(!bench.path().exists());
}

#[tokio::test]
async fn a_folder_that_others_may_enter_is_refused() {
    for mode in [0o755, 0o770, 0o701, 0o710] {
        let bench = Bench::new();
        let folder = bench.folder.path().join("run");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        let error = bench.bind(obedient()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{mode:o}");
    }
    let bench = Bench::new();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), bench.folder.path().join("run")).unwrap();
    assert!(bench.bind(obedient()).is_err(), "a link");
    let (uids, authority_uids) = (Vec::new(), Vec::new());
    let bare = Settings { path: "control.sock".into(), uids, authority_uids };
    assert!(Control::bind(bare, obedient(), bench.audit.clone()).is_err(), "no folder");
}

#[tokio::test]
async fn a_dead_brokers_socket_is_replaced_and_nothing_else() {
    let bench = Bench::new();
    fs::DirBuilder::new().mode(0o700).create(bench.path().parent().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(bench.path()).unwrap());
    let alive = bench.bind(obedient()).unwrap();
    assert_eq!(bench.bind(obedient()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(alive);
    fs::write(bench.path(), "precious").unwrap();
    assert_eq!(bench.bind(obedient()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(bench.path()).unwrap(), "precious");
}
