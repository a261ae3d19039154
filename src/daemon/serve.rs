//! The daemon's life: it starts, reports that it is ready, reloads its configuration at SIGHUP, and
//! stops.
//!
//! # Concurrency
//! The tokio runtime serves sockets; FUSE has its own threads; sessions work on blocking threads.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind};
use tokio::sync::watch;

use super::config::{self, Config, RepositoryConfig};
use super::gate::Gate;
use super::neighbours::Neighbours;
use super::served_repository::{ServedRepository, claim, refuse_rest};
use super::signal::{StopSignals, watch_for};
use super::supervisor::Supervisor;
use super::web::{self, Web};
use crate::error::{Result, ResultExt};
use crate::guest::worker::{Isolation, Standing};
use crate::http::Listening;
use crate::log;
use crate::service::{LoginAnswer, Status};
use crate::sys::inherit;
use crate::types::Memory;

/// LIMIT: the interval at which the daemon checks whether writers have ended.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);
/// How often the daemon reports to the service manager that it is still stopping, and how much longer it asks for each time.
const EXTEND_INTERVAL: Duration = Duration::from_secs(2);
const EXTENSION: Duration = Duration::from_secs(30);
/// How long the final flush of the sessions may take, on slow storage.
const SUSPENSION: Duration = Duration::from_secs(600);
/// LIMIT: the interval at which ended mounts are dropped, when no watchdog needs a shorter one.
const TIDY_INTERVAL: Duration = Duration::from_secs(5);
/// LIMIT: how long works that were asked to stop are waited for.
const WORKS_PATIENCE: Duration = Duration::from_secs(10);
/// LIMIT: how long running requests may take when the runtime ends.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(5);

/// The options of [`serve`].
pub struct ServeOptions {
    /// The whole configuration.
    pub config: Config,
    /// The source of the configuration, for a reload.
    pub source: Option<Source>,
    /// Whether this process makes the mounts, rather than a helper.
    pub mounts: bool,
    /// Whether a person has started the daemon, who logs in to its pages.
    pub logs_in: bool,
}

/// What a daemon serves, as soon as it does.
pub struct Ready {
    /// The repositories.
    pub repositories: Vec<Status>,
    /// Where it serves HTTP.
    pub http: Vec<Listening>,
    /// A login for the person who has started it.
    pub login: Option<LoginAnswer>,
}

/// The source of a configuration.
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// The settings that the file does not have to contain.
    pub defaults: Config,
    /// The isolation of readers, when the file does not set it.
    pub isolation: Isolation,
}

/// Serves until SIGINT or SIGTERM, and then as long as writers need, within the limit; a second
/// signal ends it at once. SIGHUP reloads the configuration.
///
/// # Errors
/// `Locked`, `NoRepository`, `NameTooLong` (a socket), `Io`; any other error that prevents the
/// start.
pub fn serve(options: ServeOptions, ready: impl FnOnce(&Ready)) -> Result<()> {
    // More descriptors make deep chains faster; without them the pool only reopens layers.
    let _ = crate::sys::limit::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("nbd")
        .build()
        .or_io("cannot start the runtime")?;
    // The handler is set up before anything slow: an unhandled SIGHUP ends the process, and service
    // managers take that for a clean exit.
    let hang_up = {
        let _context = runtime.enter();
        watch_for(SignalKind::hangup())?
    };
    let gate = Gate::open(&options.config)?;
    let (mut repositories, web) = open_all(&options, &gate)?;
    Neighbours::introduce(&repositories);
    say_standing(&options.config)?;
    let mut served = Served {
        repositories: &mut repositories,
        web,
    };
    let result = runtime.block_on(run(&mut served, (options, gate), hang_up, ready));
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    let closed = close_all(repositories);
    result.and(closed)
}

/// What a daemon serves.
struct Served<'a> {
    repositories: &'a mut [ServedRepository],
    web: Option<Web>,
}

/// Opens all repositories, or none, and what serves them over HTTP.
fn open_all(options: &ServeOptions, gate: &Gate) -> Result<(Vec<ServedRepository>, Option<Web>)> {
    let config = &options.config;
    config::check_names(config)?;
    let mut inherited = inherit::take()?;
    let is_only = config.repositories.len() == 1;
    let share = u64::try_from(config.repositories.len().max(1)).unwrap_or(1);
    let memory = Memory::new(config.memory.bytes() / share);
    let mut repositories = Vec::new();
    let for_web = web::claim(&config.http, &mut inherited);
    let open = || -> Result<Option<Web>> {
        for repository in &config.repositories {
            let mut repository = repository.clone();
            let own = claim(&mut repository, &mut inherited, is_only);
            repositories.push(ServedRepository::open(
                repository,
                own,
                memory,
                options.mounts,
                gate,
            )?);
        }
        refuse_rest(&inherited)?;
        Web::open(&config.http, for_web, &repositories, gate)
    };
    match open() {
        Ok(web) => Ok((repositories, web)),
        Err(error) => {
            // The error that prevented the start is the one to report.
            let _ = close_all(repositories);
            Err(error)
        }
    }
}

/// Logs how well readers of guests' filesystems are isolated from this machine, as a warning when
/// isolation is incomplete. Runs in the background, because it starts a reader and nothing needs to
/// wait for it.
fn say_standing(config: &Config) -> Result<()> {
    let mut all: Vec<Isolation> = Vec::new();
    for repository in &config.repositories {
        if !all.contains(&repository.isolation) {
            all.push(repository.isolation.clone());
        }
    }
    let say = move || {
        for standing in all.iter().map(Standing::of) {
            if standing.is_full() {
                tracing::info!("workers: {standing}");
            } else {
                tracing::warn!("workers: {standing}");
            }
        }
    };
    let thread = std::thread::Builder::new().name("standing".to_owned());
    thread.spawn(say).map(drop).or_io("cannot start a thread")
}

fn close_all(repositories: Vec<ServedRepository>) -> Result<()> {
    // A work of one repository may write to another one.
    stop_works(&repositories);
    let begun = Instant::now();
    for repository in &repositories {
        let left = WORKS_PATIENCE.saturating_sub(begun.elapsed());
        if !repository.served().works().wait(left) {
            tracing::warn!(repository = %repository.path().display(), "a job does not stop; its end is left to the end of the process");
        }
    }
    let all: Vec<Result<()>> = repositories
        .into_iter()
        .map(ServedRepository::close)
        .collect();
    all.into_iter().collect()
}

/// Asks the works of all repositories to stop, and refuses further ones.
fn stop_works(repositories: &[ServedRepository]) {
    for repository in repositories {
        repository.served().stop_works();
    }
}

async fn run(
    Served { repositories, web }: &mut Served<'_>,
    (mut options, gate): (ServeOptions, Gate),
    mut hang_up: Signal,
    ready: impl FnOnce(&Ready),
) -> Result<()> {
    let mut signals = StopSignals::watch()?;
    let (stop, stopped) = watch::channel(false);
    for repository in repositories.iter_mut() {
        repository.listen(&stopped)?;
    }
    if let Some(web) = web {
        web.listen(&stopped)?;
    }
    let supervisor = Supervisor;
    ready(&Ready {
        repositories: repositories.iter().map(|s| s.served().status()).collect(),
        http: web.as_ref().map(Web::listening).unwrap_or_default(),
        login: match (&*web, options.logs_in) {
            // Pages may be served on Unix sockets only.
            (Some(web), true) => web.login().ok(),
            _ => None,
        },
    });
    supervisor.ready(&serving(repositories));
    let pulse = supervisor.interval().unwrap_or(TIDY_INTERVAL);
    let mut pulse = tokio::time::interval(pulse.min(TIDY_INTERVAL));
    pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            name = signals.next() => {
                tracing::info!("{name}: stopping");
                break;
            }
            _ = hang_up.recv() => reload(repositories, web.as_ref(), (&mut options, &gate), supervisor),
            _ = pulse.tick() => {
                tokio::task::block_in_place(|| {
                    repositories.iter().for_each(ServedRepository::touch);
                    web.iter().for_each(Web::tidy);
                });
                supervisor.alive();
            }
        }
    }
    drain(
        repositories,
        options.config.stop_timeout,
        &mut signals,
        supervisor,
    )
    .await;
    // All receivers may be gone when every server has ended by itself.
    let _ = stop.send(true);
    if let Some(web) = web {
        web.finish().await;
    }
    for repository in repositories.iter_mut() {
        repository.finish().await;
    }
    Ok(())
}

fn serving(repositories: &[ServedRepository]) -> String {
    let paths: Vec<String> = repositories
        .iter()
        .map(|repository| repository.path().display().to_string())
        .collect();
    format!("serving {}", paths.join(", "))
}

/// Waits until writers end, for a limited time. A second signal ends the wait.
async fn drain(
    repositories: &[ServedRepository],
    patience: Duration,
    signals: &mut StopSignals,
    supervisor: Supervisor,
) {
    tokio::task::block_in_place(|| {
        repositories.iter().for_each(|one| one.sessions().close());
        stop_works(repositories);
    });
    let begun = Instant::now();
    let mut extended_at: Option<Instant> = None;
    loop {
        let writing: usize = repositories
            .iter()
            .map(|repository| repository.sessions().being_written().len())
            .sum();
        let left = patience.saturating_sub(begun.elapsed());
        if writing == 0 || left.is_zero() {
            if writing > 0 {
                tracing::warn!(
                    sessions = writing,
                    limit_seconds = patience.as_secs(),
                    "sessions are still being written; they are suspended, and the next daemon goes on with them"
                );
            }
            supervisor.stopping("suspending sessions", SUSPENSION);
            return;
        }
        if extended_at.is_none_or(|extended_at| extended_at.elapsed() >= EXTEND_INTERVAL) {
            let status = format!(
                "stopping: sessions that are being written: {writing}; {} s left",
                left.as_secs()
            );
            if extended_at.is_none() {
                tracing::info!(
                    sessions = writing,
                    limit_seconds = patience.as_secs(),
                    "waiting for writers"
                );
            }
            supervisor.stopping(&status, EXTENSION);
            supervisor.alive();
            extended_at = Some(Instant::now());
        }
        tokio::select! {
            name = signals.next() => {
                tracing::warn!("{name} again: writers are not waited for");
                return;
            }
            () = tokio::time::sleep(DRAIN_INTERVAL) => {}
        }
    }
}

/// Reloads the configuration, and applies what can be applied. With a mistake in the file,
/// everything stays as it is.
fn reload(
    repositories: &[ServedRepository],
    web: Option<&Web>,
    (options, gate): (&mut ServeOptions, &Gate),
    supervisor: Supervisor,
) {
    tracing::info!("SIGHUP: reading the configuration again");
    supervisor.reloading();
    let result = tokio::task::block_in_place(|| try_reload(repositories, web, options, gate));
    match result {
        Ok(status) => {
            tracing::info!("the configuration has been read again");
            supervisor.ready(&status);
        }
        Err(error) => {
            let error = error.report();
            tracing::error!(%error, "the configuration has a mistake in it; all stays as it was");
            supervisor.ready(&format!(
                "as before, for the configuration has a mistake in it: {error}"
            ));
        }
    }
}

/// Returns the status line for the service manager.
fn try_reload(
    repositories: &[ServedRepository],
    web: Option<&Web>,
    options: &mut ServeOptions,
    gate: &Gate,
) -> Result<String> {
    let new = match &options.source {
        Some(source) => Config::load(&source.path, &source.defaults, &source.isolation)?,
        None => options.config.clone(),
    };
    config::check(&new)?;
    gate.access.reload()?;
    if let Some(web) = web {
        web.reload(&new.http)?;
    }
    for repository in repositories {
        if let Some(new) = new
            .repositories
            .iter()
            .find(|new| new.path == *repository.path())
        {
            repository.reload(new)?;
        }
    }
    if options.source.is_some() {
        log::set_level(&new.log.level)?;
    }
    for key in options.config.restarts(&new) {
        tracing::warn!(key, "this takes a restart; it is as it was");
    }
    options.config.stop_timeout = new.stop_timeout;
    let mut status = serving(repositories);
    for repository in repositories {
        let is_of = |one: &&mut RepositoryConfig| one.path == *repository.path();
        let old = options.config.repositories.iter_mut().find(is_of);
        let new = new
            .repositories
            .iter()
            .find(|new| new.path == *repository.path());
        let (Some(old), Some(new)) = (old, new) else {
            continue;
        };
        if options.mounts
            && let Err(error) = repository.mount_missing(&new.mounts)
        {
            // All other mounts are in place, and the rest of the new configuration is applied.
            status.push_str(&format!("; {}", error.report()));
        }
        for mount in &new.mounts {
            if old.mounts.iter().all(|old| old.at != mount.at) {
                old.mounts.push(mount.clone());
            }
        }
    }
    Ok(status)
}
