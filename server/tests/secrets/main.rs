//! No secret in any output: every secret of the configuration is a sentinel, the server is led through failures at the most talkative
//! log level, and whatever it said or wrote is searched for the sentinels, also in the forms in which they travel.
//!
//! None of them has to be stored anywhere: the control store, the backups and the journal are searched, too.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

#[path = "../notifications/receiver.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod receiver;
mod world {
    //! What the receiver takes from the world of its own tests.

    /// Longest wait for anything that is expected.
    pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
}

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use dbkeep_client::{Client, Look, PlanRequest, RunRequest, TokenDraft, proto};
use dbkeep_testkit::{Db, Durability, MailOptions, MailServer, PrivatePostgres};
use receiver::{Receiver, Reply};
use rustix::process::{Pid, Signal, kill_process};

/// What may be seen nowhere. `KEY` is [`RAW_KEY`] in base64.
const STORE: &str = "Zq1StorePasswordSentinel";
const TARGET: &str = "Zq2TargetPasswordSentinel";
const WRONG: &str = "Zq3WrongPasswordSentinel";
const MAIL: &str = "Zq4MailPasswordSentinel";
const KEY: &str = "WnE1V2ViaG9va0tleVNlbnRpbmVsMDEyMzQ1Njc4OTA=";
const RAW_KEY: &str = "Zq5WebhookKeySentinel01234567890";
const HOOK: &str = "Zq6WebhookPathSentinel";
const SLACK: &str = "Zq7SlackPathSentinel";
const TYPED: &str = "Zq8CommandLineSentinel";
const BEARER: &str = "Zq9BearerSentinel";
const SENTINELS: [&str; 10] = [STORE, TARGET, WRONG, MAIL, KEY, RAW_KEY, HOOK, SLACK, TYPED, BEARER];
/// Digits of a token's secret, at its end; what stands before them is its id, which is none.
const SECRET_DIGITS: usize = 64;
/// The one file that holds a secret on purpose.
const FIRST_TOKEN: &str = "data/admin-token";

/// Base64 (RFC 4648) of some bytes.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = usize::try_from(number >> (18 - 6 * place) & 63).unwrap();
            text.push(if place <= chunk.len() {
                char::from(ALPHABET[index])
            } else {
                '='
            });
        }
    }
    text
}

/// The forms in which a sentinel could stand somewhere: as it is, as hex, and as the inner part of its base64 at each alignment.
fn forms(sentinel: &str) -> Vec<String> {
    let mut forms = vec![sentinel.to_owned(), hex(sentinel.as_bytes())];
    for before in ["", "x", "xx"] {
        let text = base64(format!("{before}{sentinel}").as_bytes());
        let inner = &text[4..text.len() - 4];
        forms.push(inner.to_owned());
    }
    forms
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The secret of a token as it came from the server.
fn secret_of(token: &str) -> &str {
    let token = token.trim();
    assert!(token.starts_with("dbk_"), "it is no token");
    &token[token.len() - SECRET_DIGITS..]
}

/// The lines of a key in PEM, which hold it.
fn lines_of(key: &str) -> impl Iterator<Item = &str> {
    key.lines().filter(|line| !line.starts_with("-----") && line.len() >= 32)
}

/// What was found where; empty where nothing was.
fn found_in(sentinels: &[String], place: &str, content: &[u8]) -> Vec<String> {
    let content = String::from_utf8_lossy(content);
    let mut found = Vec::new();
    for sentinel in sentinels {
        for form in forms(sentinel) {
            if let Some(at) = content.find(&form) {
                let around = content[..at].chars().rev().take(150).collect::<Vec<_>>();
                let around: String = around.into_iter().rev().collect();
                found.push(format!("{sentinel} in {place}: ..{around}<here>"));
            }
        }
    }
    found
}

/// Every file beneath a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// A cluster that asks everybody but its superuser for a password.
async fn cluster() -> PrivatePostgres {
    let cluster = PrivatePostgres::start(Durability::Fast).await.unwrap();
    let db = Db::open(&cluster.url("postgres")).await.unwrap();
    let file = db.fetch_text("SHOW hba_file").await.unwrap()[0][0].clone().unwrap();
    let rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    let mut opened = fs::OpenOptions::new().write(true).truncate(true).open(file).unwrap();
    opened.write_all(rules.as_bytes()).unwrap();
    db.execute("SELECT pg_reload_conf()").await.unwrap();
    db.execute(&format!(
        "SET log_statement = 'none'; CREATE ROLE storer LOGIN PASSWORD '{STORE}'; CREATE ROLE keeper LOGIN PASSWORD '{TARGET}'"
    ))
    .await
    .unwrap();
    db.execute("CREATE DATABASE store OWNER storer").await.unwrap();
    db.execute("CREATE DATABASE app OWNER keeper").await.unwrap();
    let app = Db::open(&cluster.url("app")).await.unwrap();
    app.execute(
        "SET ROLE keeper; CREATE TABLE logs (id integer PRIMARY KEY, at timestamptz); \
         INSERT INTO logs SELECT n, now() - n * interval '1 day' FROM generate_series(1, 100) AS n; \
         CREATE TABLE held (id integer PRIMARY KEY, at timestamptz, state text NOT NULL DEFAULT 'new' CHECK (state <> 'old')); \
         INSERT INTO held (id, at) SELECT * FROM logs",
    )
    .await
    .unwrap();
    cluster
}

const CATALOG: &str = r#"
[[operation]]
name = "logs"
category = "LOGS"
severity = "LOW"
backup = true
[[operation.rule]]
name = "logs"
kind = "expired"
table = "logs"
column = "at"
retention = "P50D"
max_fraction = 1.0

[[operation]]
name = "held"
category = "LOGS"
severity = "LOW"
backup = true
[[operation.rule]]
name = "held"
kind = "expired"
table = "held"
column = "at"
retention = "P50D"
action = "update"
set = { state = "old" }
max_fraction = 1.0
"#;

/// Where everything is.
struct Place {
    folder: tempfile::TempDir,
    config: PathBuf,
    output: PathBuf,
}

impl Place {
    /// A configuration whose secrets come from everywhere they can: variables, files, and credentials.
    fn new(port: u16, mail: u16, hook: &Receiver) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for private in ["credentials", "output"] {
            fs::create_dir(path(private)).unwrap();
        }
        let secret = |name: &str, text: &str| fs::write(path("credentials").join(name), format!("{text}\n")).unwrap();
        secret("store", &format!("postgres://storer:{STORE}@127.0.0.1:{port}/store"));
        secret("app", TARGET);
        secret("mail", MAIL);
        secret("slack", &format!("https://localhost:{}/services/{SLACK}", hook.port));
        fs::write(path("ca.pem"), hook.authority().unwrap()).unwrap();
        fs::write(path("catalog.toml"), CATALOG).unwrap();
        let text = format!(
            r#"
[server]
listen = "127.0.0.1:0"
[data]
folder = "data"
[store]
url_file = "${{CREDENTIALS_DIRECTORY}}/store"
[scheduler]
default_schedules = false
[[target]]
name = "app"
url = "postgres://keeper@127.0.0.1:{port}/app"
password_file = "${{CREDENTIALS_DIRECTORY}}/app"
catalog = ["catalog.toml"]
[[target]]
name = "wrong"
url = "postgres://keeper:${{WRONG_PASSWORD}}@127.0.0.1:{port}/app"
catalog = ["catalog.toml"]
[monitoring]
interval = "5s"
[notifications]
first_wait = "1s"
[[channel]]
name = "mail"
kind = "email"
url = "smtp://127.0.0.1:{mail}"
starttls = false
from = "dbkeep@example.com"
to = ["ops@example.com"]
username = "keeper"
password_file = "${{CREDENTIALS_DIRECTORY}}/mail"
[[channel]]
name = "dead"
kind = "email"
url = "smtp://127.0.0.1:1"
starttls = false
from = "dbkeep@example.com"
to = ["ops@example.com"]
username = "keeper"
password = "${{MAIL_PASSWORD}}"
[[channel]]
name = "hook"
kind = "webhook"
url = "https://localhost:{}/hooks/{HOOK}?token={HOOK}"
secret = "${{HOOK_KEY}}"
allow_private = true
ca_file = "ca.pem"
[[channel]]
name = "chat"
kind = "slack"
url_file = "${{CREDENTIALS_DIRECTORY}}/slack"
allow_private = true
ca_file = "ca.pem"
[[route]]
channels = ["mail", "dead", "hook", "chat"]
"#,
            hook.port
        );
        let config = path("dbkeep.toml");
        fs::write(&config, text).unwrap();
        Self {
            config,
            output: path("output"),
            folder,
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbkeepd"));
        let stream = |kind: &str| File::create(self.output.join(format!("{name}.{kind}"))).unwrap();
        command
            .env("DBKEEP_LOG", "trace")
            .env("CREDENTIALS_DIRECTORY", self.folder.path().join("credentials"))
            .env("WRONG_PASSWORD", WRONG)
            .env("MAIL_PASSWORD", MAIL)
            .env("HOOK_KEY", format!("whsec_{KEY}"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(stream("stdout"))
            .stderr(stream("stderr"));
        command
    }

    /// Runs to its end; whether it was successful.
    fn ends(&self, name: &str, arguments: &[&str]) -> bool {
        self.command(name).args(arguments).status().unwrap().success()
    }

    fn said(&self, name: &str, kind: &str) -> String {
        fs::read_to_string(self.output.join(format!("{name}.{kind}"))).unwrap()
    }

    /// Keeps an answer, so that it is searched like everything else.
    fn keep(&self, name: &str, text: &impl std::fmt::Debug) {
        fs::write(self.output.join(format!("{name}.answer")), format!("{text:?}\n{text:#?}")).unwrap();
    }
}

/// A serving `dbkeepd`.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(place: &Place, name: &str, format: &str) -> Self {
        Self::start_in(place, &place.config, name, format)
    }

    fn start_in(place: &Place, config: &Path, name: &str, format: &str) -> Self {
        let mut command = place.command(name);
        command.arg("--config").arg(config).args(["--log-format", format]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let address = address.unwrap_or_else(|| panic!("{}", place.said(name, "stderr")));
        Self { child, address }
    }

    /// A server with TLS, of which the certificate and the key are in the folder.
    fn start_with_tls(place: &Place, name: &str, authority: &str) -> Self {
        let config = place.folder.path().join("tls.toml");
        let text = fs::read_to_string(&place.config).unwrap();
        fs::write(
            &config,
            format!("{text}[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n"),
        )
        .unwrap();
        fs::write(place.folder.path().join("authority.pem"), authority).unwrap();
        Self::start_in(place, &config, name, "json")
    }

    /// A page, as somebody with a token that is none gets it, and as this user does.
    fn http(&self, path: &str) -> String {
        let bearer = format!("authorization: Bearer {BEARER}\r\n");
        [&bearer, ""].map(|header| self.get(path, header)).concat()
    }

    fn get(&self, path: &str, header: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended in order, or its test has failed: nothing may stay behind either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that a server says of itself, and runs that fail and succeed.
async fn lead_through(place: &Place, serving: &Serving, name: &str, token: &str) {
    let client = Client::builder()
        .address(&serving.address)
        .token(token)
        .connect()
        .await
        .unwrap();
    let keep = |what: &str, answer: &dyn std::fmt::Debug| place.keep(&format!("{name}-{what}"), &format!("{answer:?}"));
    for target in ["app", "wrong"] {
        keep(&format!("target-{target}"), &client.targets().get(target).await);
        keep(&format!("grants-{target}"), &client.targets().grants(target, "", &[]).await);
        keep(
            &format!("metrics-{target}"),
            &client.monitoring().metrics(target, Look::Fresh).await,
        );
        keep(
            &format!("findings-{target}"),
            &client.monitoring().findings(target, Look::Fresh).await,
        );
        for operation in ["logs", "held"] {
            let plan = client.cleanup().plan(PlanRequest::new([operation]).target(target)).await;
            keep(&format!("plan-{target}-{operation}"), &plan);
            let Ok(plan) = plan else { continue };
            let run = client
                .cleanup()
                .run(RunRequest::of_plan(&plan).execute().full_speed())
                .await
                .unwrap();
            let run = run.finish().await;
            keep(&format!("run-{target}-{operation}"), &run);
        }
    }
    for channel in ["mail", "dead", "hook", "chat"] {
        let tested = client.notifications().test(channel, Vec::<String>::new()).await;
        keep(&format!("test-{channel}"), &tested);
    }
    keep("channels", &client.notifications().channels().await);
    keep(
        "deliveries",
        &client.notifications().list_all(dbkeep_client::DeliveryQuery::default()).await,
    );
    keep(
        "decisions",
        &client.decisions().list_all(dbkeep_client::DecisionQuery::default()).await,
    );
    keep("status", &client.monitoring().status().await);
    keep("list", &client.targets().list().await);
    keep("runs", &client.runs().list_all(dbkeep_client::RunQuery::default()).await);
    keep("caller", &client.access().caller().await);
    keep("tokens", &client.access().tokens().await);
    keep("audit", &client.audit().list_all(dbkeep_client::AuditQuery::default()).await);
    keep("client", &client);
    // A token that was good: revoked, and shown once more.
    let made = client
        .access()
        .create_token(TokenDraft::new("brief", proto::Role::Viewer))
        .await
        .unwrap();
    keep("made", &made.token);
    client.access().revoke_token("brief").await.unwrap();
    let brief = Client::builder()
        .address(&serving.address)
        .token(&made.secret)
        .connect()
        .await;
    keep("brief", &brief.unwrap().access().caller().await);
    by_the_tool(place, serving, name, &client, token).await;
    // A caller who shows a token, as those do who are asked for one.
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", serving.address))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut service = proto::target_service_client::TargetServiceClient::new(channel);
    let mut request = tonic::Request::new(proto::GetTargetRequest { name: "no such".into() });
    let token = format!("Bearer {BEARER}").parse().unwrap();
    request.metadata_mut().insert("authorization", token);
    keep("bearer", &service.get_target(request).await);
    for path in ["/metrics", "/healthz", "/readyz", "/", "/no/such/page"] {
        keep(&format!("http{}", path.replace('/', "-")), &serving.http(path));
    }
}

/// The command line tool, which lies beside the server.
fn tool() -> PathBuf {
    let tool = Path::new(env!("CARGO_BIN_EXE_dbkeepd")).with_file_name("dbkeep");
    assert!(
        tool.exists(),
        "{} is not there: cargo build -p dbkeep-client --features cli",
        tool.display()
    );
    tool
}

/// The same through the command line tool: it shows what the calls above have answered.
async fn by_the_tool(place: &Place, serving: &Serving, name: &str, client: &Client, token: &str) {
    let tool = tool();
    let runs = client.runs().list_all(dbkeep_client::RunQuery::default()).await.unwrap();
    let failed = runs.iter().find(|run| run.state() == proto::RunState::Failed).unwrap();
    let html = place.output.join(format!("{name}-report.html")).display().to_string();
    let commands: [&[&str]; 16] = [
        &["whoami"],
        &["tokens", "list"],
        &["tokens", "revoke", "no-such"],
        &["audit", "list"],
        &["no-such-command"],
        &["status"],
        &["targets", "list"],
        &["targets", "show", "app"],
        &["targets", "show", "wrong"],
        &["grants", "app"],
        &["plan", "logs", "--target", "wrong"],
        &["runs", "show", &failed.id],
        &["runs", "watch", &failed.id],
        &["runs", "report", &failed.id, "--html", &html],
        &["notify", "deliveries"],
        &["notify", "channels"],
    ];
    for (number, command) in commands.into_iter().enumerate() {
        for format in ["table", "json"] {
            let mut run = Command::new(&tool);
            run.args(command).args(["--output", format, "--addr", &serving.address]);
            keep_output(place, &format!("{name}-tool-{number}-{format}"), run, token);
        }
    }
    // A server that is not there, and one to which no token is sent in the clear.
    for (number, address) in ["127.0.0.1:1", "http://192.0.2.1:1", "nonsense://x"].into_iter().enumerate() {
        let mut run = Command::new(&tool);
        run.args(["whoami", "--addr", address, "--timeout", "1s"]);
        keep_output(place, &format!("{name}-tool-away-{number}"), run, token);
    }
}

/// Runs the tool with a token in its environment, and keeps what it says.
fn keep_output(place: &Place, name: &str, mut tool: Command, token: &str) {
    let output = tool
        .env("DBKEEP_TOKEN", token)
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    place.keep(name, &String::from_utf8_lossy(&output.stdout));
    place.keep(&format!("{name}-error"), &String::from_utf8_lossy(&output.stderr));
}

/// The same token over TLS, right and wrong.
async fn over_tls(place: &Place, serving: &Serving, authority: &str, token: &str) {
    let address = format!("https://{}", serving.address);
    let connect = |authority: &str, token: &str| {
        let builder = Client::builder()
            .address(&address)
            .authority(authority)
            .server_name("localhost");
        builder.token(token).connect()
    };
    let client = connect(authority, token).await.unwrap();
    let caller = client.access().caller().await;
    assert_eq!(caller.as_ref().unwrap().known_by, "token");
    place.keep("tls-caller", &caller);
    let unknown = format!("dbk_{}{BEARER}", &token[4..]);
    place.keep("tls-wrong", &connect(authority, &unknown).await.err());
    let file = place.folder.path().join("authority.pem").display().to_string();
    for (number, more) in [["--ca", file.as_str()], ["--output", "json"]].into_iter().enumerate() {
        let mut run = Command::new(tool());
        run.args(["whoami", "--addr", &address, "--server-name", "localhost"])
            .args(more);
        keep_output(place, &format!("tls-tool-{number}"), run, token);
    }
    let said = fs::read_to_string(place.output.join("tls-tool-0.answer")).unwrap();
    assert!(said.contains("searched"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_stands_in_anything_that_is_said_or_written() {
    let cluster = cluster().await;
    let hook = Receiver::start().await;
    hook.will((0..1_000).map(|_| Reply::status(500)));
    let options = MailOptions {
        login: Some(("keeper", "another")),
        ..MailOptions::default()
    };
    let mail = MailServer::start(&options).await.unwrap();
    let place = Place::new(cluster.port(), mail.port, &hook);
    let config = place.config.display().to_string();

    assert!(place.ends("help", &["--help"]));
    assert!(
        place.ends("check", &["--config", &config, "--check"]),
        "{}",
        place.said("check", "stderr")
    );
    assert!(
        place.said("check", "stdout").contains("target wrong"),
        "the check spoke to the targets"
    );
    // Tokens that are good: the first one, and one that the server makes while it is led.
    let mut sentinels: Vec<String> = SENTINELS.map(str::to_owned).to_vec();
    let mut token = String::new();
    for (name, format) in [("text", "text"), ("json", "json")] {
        let serving = Serving::start(&place, name, format);
        if token.is_empty() {
            let first = fs::read_to_string(place.folder.path().join(FIRST_TOKEN)).unwrap();
            sentinels.push(secret_of(&first).to_owned());
            let client = Client::builder()
                .address(&serving.address)
                .token(first.trim())
                .connect()
                .await
                .unwrap();
            let draft = TokenDraft::new("searched", proto::Role::Admin);
            token = client.access().create_token(draft).await.unwrap().secret;
            sentinels.push(secret_of(&token).to_owned());
        }
        lead_through(&place, &serving, name, &token).await;
        serving.end();
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    fs::write(place.folder.path().join("server.pem"), &certificate).unwrap();
    fs::write(place.folder.path().join("server.key"), key.serialize_pem()).unwrap();
    let before = sentinels.len();
    sentinels.extend(lines_of(&key.serialize_pem()).map(str::to_owned));
    assert!(sentinels.len() > before, "the key has lines");
    let serving = Serving::start_with_tls(&place, "tls", &issuer.pem());
    over_tls(&place, &serving, &issuer.pem(), &token).await;
    serving.end();
    // The key where the certificate should be, and one that is cut.
    let whole_key = key.serialize_pem();
    let line = lines_of(&whole_key).next().unwrap();
    fs::write(place.folder.path().join("cut.key"), whole_key.replace(line, &line[..40])).unwrap();
    // Settings that are refused.
    let whole = fs::read_to_string(&place.config).unwrap();
    let refuse = |name: &str, from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        let path = place.folder.path().join(format!("{name}.toml"));
        fs::write(&path, whole.replace(from, to)).unwrap();
        assert!(!place.ends(name, &["--config", &path.display().to_string()]), "{name}");
    };
    refuse("bad-catalog", "catalog = [\"catalog.toml\"]", "catalog = [\"dbkeep.toml\"]");
    refuse("cut-password", "keeper:${WRONG_PASSWORD}@", "keeper:${WRONG_PASSWORD}/x@");
    refuse("bad-port", "@127.0.0.1:", "@127.0.0.1:x");
    refuse("bad-key", "secret = \"${HOOK_KEY}\"", "secret = \"${MAIL_PASSWORD}\"");
    refuse("bad-hook", "https://localhost", "http://localhost");
    refuse("no-variable", "${WRONG_PASSWORD}", "${WRONG_PASSWORD}${NO_SUCH}");
    refuse("bad-store", "/store\"", "/app\"");
    for (name, certificate, key) in [
        ("bad-certificate", "server.key", "server.key"),
        ("bad-tls-key", "server.pem", "cut.key"),
        ("no-tls-key", "server.pem", "server.pem"),
    ] {
        let section = format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n[scheduler]");
        refuse(name, "[scheduler]", &section);
    }
    // Passwords on the command line: written out they are refused, wherever they stand, and not repeated.
    let typed = [
        format!("app=postgres://keeper:{TYPED}@127.0.0.1/app"),
        format!("app=postgres://127.0.0.1/app?password={TYPED}"),
        format!("app=postgres://keeper:{TYPED}/x@127.0.0.1/app"),
        format!("postgres://keeper:{TYPED}@127.0.0.1/app"),
        format!("a b=postgres://keeper:{TYPED}@127.0.0.1/app"),
    ];
    for (number, target) in typed.iter().enumerate() {
        let name = format!("typed{number}");
        assert!(
            !place.ends(&name, &["--data", "data", "--check", "--target", target]),
            "{target}"
        );
        let said = place.said(&name, "stderr");
        assert!(said.contains("--target"), "{said}");
        assert_eq!(number < 3, said.contains("can read a command line"), "{said}");
    }
    let referred = format!("app=postgres://keeper:${{WRONG_PASSWORD}}@127.0.0.1:{}/app", cluster.port());
    let arguments = [
        "--data",
        "data",
        "--check",
        "--target",
        &referred,
        "--catalog",
        "catalog.toml",
    ];
    assert!(place.ends("referred", &arguments), "{}", place.said("referred", "stderr"));
    assert!(place.said("referred", "stdout").contains("password authentication failed"));

    // It spoke, and everywhere that it was meant to.
    let log = place.said("text", "stderr");
    assert!(log.len() > 20_000 && log.contains("TRACE"), "{} bytes of log", log.len());
    for (answer, part) in [
        ("text-run-app-held", "Failed"),
        ("text-run-app-logs", "Succeeded"),
        ("text-plan-wrong-logs", "password authentication failed"),
        ("json-test-mail", "535"),
        ("json-test-dead", "refused"),
        ("json-test-hook", "500"),
        ("json-test-chat", "500"),
    ] {
        let said = fs::read_to_string(place.output.join(format!("{answer}.answer"))).unwrap();
        assert!(said.contains(part), "{answer}: {said}");
    }

    let mut found = Vec::new();
    for folder in [place.output.clone(), place.folder.path().join("data")] {
        let all = files(&folder);
        assert!(!all.is_empty(), "{}", folder.display());
        for file in all {
            let name = file.strip_prefix(place.folder.path()).unwrap().display().to_string();
            if name != FIRST_TOKEN {
                found.extend(found_in(&sentinels, &name, &fs::read(&file).unwrap()));
            }
        }
    }
    for (database, schema) in [("store", "dbkeep_control"), ("app", "dbkeep"), ("store", "public")] {
        let db = Db::open(&cluster.url(database)).await.unwrap();
        let tables = format!("SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'");
        for table in db.fetch_text(&tables).await.unwrap() {
            let table = table[0].clone().unwrap();
            let rows = db
                .fetch_text(&format!("SELECT * FROM \"{schema}\".\"{table}\""))
                .await
                .unwrap();
            let text = rows.into_iter().flatten().flatten().collect::<Vec<_>>().join("\n");
            found.extend(found_in(&sentinels, &format!("{database}.{table}"), text.as_bytes()));
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

/// The search finds what it is to find: otherwise its silence would say nothing.
#[test]
fn the_search_has_eyes() {
    assert_eq!(base64(b"\0u\0pw"), "AHUAcHc=");
    assert_eq!(base64(b"Man"), "TWFu");
    assert_eq!(base64(RAW_KEY.as_bytes()), KEY);
    let sentinels: Vec<String> = SENTINELS.map(str::to_owned).to_vec();
    assert!(found_in(&sentinels, "x", b"nothing").is_empty());
    for content in [
        format!("password={MAIL}"),
        format!("AUTH PLAIN {}", base64(format!("\0keeper\0{MAIL}").as_bytes())),
        format!("{}x", base64(format!("x{MAIL}").as_bytes())),
        hex(MAIL.as_bytes()),
    ] {
        assert_eq!(found_in(&sentinels, "x", content.as_bytes()).len(), 1, "{content}");
    }
    let digits = "0123456789abcdef".repeat(4);
    let token = format!("dbk_0198c0de000070008000000000000001_{digits}");
    let of_token = [secret_of(&token).to_owned()];
    for content in [format!("Bearer {token}"), format!("x={digits}"), base64(token.as_bytes())] {
        assert_eq!(found_in(&of_token, "x", content.as_bytes()).len(), 1, "{content}");
    }
    assert!(found_in(&of_token, "x", b"dbk_0198c0de000070008000000000000001").is_empty());
}
