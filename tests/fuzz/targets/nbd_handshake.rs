//! The server's side of NBD over a socket, as any client may speak: greeting, options, and requests once an export was chosen. There are
//! an export to read and one of an open session.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use restorefs::block::MemoryDisk;
use restorefs::error::{Error, Result};
use restorefs::nbd::server::{
    Caller, Content, Export, ExportInfo, Exports, ServerLimits, Service, serve_client,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::world::{self, World};

/// LIMIT: bytes of one client; what it sends must fit into a socket.
const BYTES_MAX: usize = 64 << 10;
/// What the server says first: its magic numbers and flags.
const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

/// LIMIT: clients of one session: its layer grows by what they write.
const CLIENTS_MAX: u32 = 1000;

/// The session of this client, and of those before and after it.
fn world() -> Arc<World> {
    static WORLD: Mutex<Option<(u32, Arc<World>)>> = Mutex::new(None);
    let mut shared = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((clients, world)) = shared.as_mut().filter(|(n, _)| *n < CLIENTS_MAX) {
        *clients += 1;
        return Arc::clone(world);
    }
    match world::make() {
        Ok(world) => Arc::clone(&shared.insert((0, Arc::new(world))).1),
        Err(error) => panic!("no repository in memory: {error:?}"),
    }
}

/// What is served.
struct Two(Arc<World>);

impl Exports for Two {
    fn list(&self, _: &Caller, most: usize) -> Vec<ExportInfo> {
        let export = |name: &str| ExportInfo {
            name: name.to_owned(),
            description: "a disk".to_owned(),
        };
        let mut all = vec![export("web01/s/vda"), export("web01/first/vda")];
        all.truncate(most);
        all
    }

    fn open(&self, name: &str, _: &Caller) -> Result<Export> {
        let content = match name {
            "r" | "web01/first/vda" => {
                Content::Read(Arc::new(MemoryDisk::from_bytes(&[7; 96 << 10])))
            }
            "w" | "web01/s/vda" => Content::Write {
                session: Arc::clone(&self.0.session),
                disk: self.0.session.disk(&self.0.disk)?,
            },
            _ => return Err(Error::not_found("no such export")),
        };
        Ok(Export {
            content,
            description: "a disk".to_owned(),
            contexts: None,
        })
    }
}

/// The client's side: says everything, then hears the answers to their end.
async fn speak(mut stream: UnixStream, data: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    let (mut receiving, mut sending) = stream.split();
    let say = async {
        // The server may have left already.
        let _ = sending.write_all(data).await;
        let _ = sending.shutdown().await;
    };
    let hear = async {
        let _ = receiving.read_to_end(&mut answers).await;
    };
    tokio::join!(say, hear);
    answers
}

/// Serves one client that says the bytes.
pub(crate) fn run(data: &[u8]) {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .ok()
    });
    let Some(runtime) = runtime else { return };
    let data = data.get(..data.len().min(BYTES_MAX)).unwrap_or_default();
    let answers = runtime.block_on(async {
        let service = Service::new(Arc::new(Two(world())), ServerLimits::default());
        let (_keep, shutdown) = watch::channel(false);
        let Ok((ours, theirs)) = UnixStream::pair() else {
            return Vec::new();
        };
        // An error ends the connection: most of what is said is no NBD.
        let (_, answers) =
            tokio::join!(serve_client(&service, theirs, shutdown), speak(ours, data));
        answers
    });
    assert!(
        answers.is_empty() || answers.starts_with(GREETING),
        "the server greets first"
    );
}
