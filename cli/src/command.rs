//! From a parsed command line to its end: runtime, telemetry, dispatch, and the last words on stderr.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory as _;
use shoal_client::Client;
use tracing::Instrument as _;
use tracing::level_filters::LevelFilter;

use crate::args::{Cli, CollectionCommand, Command, Format, Global, NodeCommand};
use crate::failure::{Exit, Failure};
use crate::output::lines_escaped;
use crate::progress::say;
use crate::telemetry::Telemetry;
use crate::{collections, eval, import, nodes, points, serve, status, up};

/// How long a call is repeated while nobody listens at any endpoint.
const PATIENCE: Duration = Duration::from_secs(2);

/// What every command that asks a cluster needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) format: Format,
}

impl Context {
    fn new(global: &Global) -> Result<Self, Failure> {
        let endpoints: Vec<String> = global.endpoints.iter().map(|endpoint| with_scheme(endpoint)).collect();
        let client = Client::connect(&endpoints)
            .map_err(|error| Failure::from(error).exit(Exit::Usage).next("write it like http://127.0.0.1:7700"))?;
        Ok(Self { client: client.with_timeout(global.timeout).with_patience(PATIENCE), format: global.output })
    }
}

/// `host:port` is short for `http://host:port`.
fn with_scheme(endpoint: &str) -> String {
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") }
}

/// Runs a command to its end.
pub(crate) fn main(cli: Cli) -> ExitCode {
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("error: {}", lines_escaped(&failure.message)));
            if let Some(next) = &failure.next {
                say(&format!("  next: {next}"));
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    if let Command::Completion { shell } = cli.command {
        return completion(shell);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("start threads: {error}")))?;
    let level = match cli.command {
        Command::Serve(_) => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    };
    let log_format = cli.global.log_format;
    let telemetry = runtime.block_on(async { Telemetry::start(log_format, level) })?;
    let result = runtime.block_on(dispatch(cli));
    telemetry.end();
    result
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    // These two ask no cluster, and run for ever: no client, no span.
    match &cli.command {
        Command::Up(args) => return up::run(cli.global.output, args).await,
        Command::Serve(args) => return serve::run(args).await,
        _ => {}
    }
    let context = Context::new(&cli.global)?;
    // Root of the trace: client, router and nodes hang their spans below it.
    let span = tracing::info_span!("cli", command = cli.command.name());
    ask(&context, cli.command).instrument(span).await
}

async fn ask(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status => status::run(context).await,
        Command::Collection(CollectionCommand::Create(args)) => collections::create(context, args).await,
        Command::Collection(CollectionCommand::Ls) => collections::list(context).await,
        Command::Collection(CollectionCommand::Describe { name }) => collections::describe(context, &name).await,
        Command::Collection(CollectionCommand::Rm { name, yes }) => collections::remove(context, &name, yes).await,
        Command::Node(NodeCommand::Ls) => nodes::list(context).await,
        Command::Node(NodeCommand::Rm { node }) => nodes::remove(context, &node).await,
        Command::Import(args) => import::run(context, &args).await,
        Command::Search(args) => points::search(context, &args).await,
        Command::Count(args) => points::count(context, &args).await,
        Command::Get(args) => points::get(context, &args).await,
        Command::Delete(args) => points::delete(context, &args).await,
        Command::Eval(args) => eval::run(context, &args).await,
        Command::Completion { shell } => completion(shell),
        Command::Up(args) => up::run(context.format, &args).await,
        Command::Serve(args) => serve::run(&args).await,
    }
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Serve(_) => "serve",
            Self::Status => "status",
            Self::Collection(_) => "collection",
            Self::Node(_) => "node",
            Self::Import(_) => "import",
            Self::Search(_) => "search",
            Self::Count(_) => "count",
            Self::Get(_) => "get",
            Self::Delete(_) => "delete",
            Self::Eval(_) => "eval",
            Self::Completion { .. } => "completion",
        }
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "shoal", &mut script);
    std::io::stdout().write_all(&script).map_err(|error| Failure::new(format!("write to stdout: {error}")))
}
