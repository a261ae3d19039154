//! The HTTP server of a daemon: one for all its repositories.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::config::{HttpConfig, check_served_names};
use super::gate::Gate;
use super::served_repository::ServedRepository;
use crate::access::Caller;
use crate::error::{Error, Result, ResultExt};
use crate::http::{Listening, Server, Site, SiteOptions};
use crate::service::{Login, LoginAnswer};
use crate::sys::inherit::{Inherited, Named};
use crate::tls::{Clients, ServerTls};
use crate::types::sync::Mutex;

/// The name of a socket that a service manager holds for HTTP (`FileDescriptorName=`).
const LABEL: &str = "http";

/// The HTTP server.
pub(super) struct Web {
    site: Arc<Site>,
    logins: Arc<Logins>,
    tls: Option<ServerTls>,
    config: HttpConfig,
    inherited: Vec<Inherited>,
    servers: Vec<JoinHandle<()>>,
}

/// Takes from `all` the sockets that are HTTP's: those of its name, and those that the configuration names.
pub(super) fn claim(config: &HttpConfig, all: &mut Vec<Named>) -> Vec<Inherited> {
    let (own, others): (Vec<Named>, Vec<Named>) = all.drain(..).partition(|named| {
        named.label == LABEL
            || match &named.socket {
                Inherited::Unix(_, path) => config.sockets.contains(path),
                Inherited::Tcp(_, address) => config.listen == Some(*address),
            }
    });
    *all = others;
    own.into_iter().map(|named| named.socket).collect()
}

impl Web {
    /// Prepares to serve; `None` where nothing is to be served. `inherited` are the sockets of [`claim`].
    ///
    /// # Errors
    /// What loading certificates returns; `InvalidInput` for two repositories of one name.
    pub(super) fn open(
        config: &HttpConfig,
        inherited: Vec<Inherited>,
        repositories: &[ServedRepository],
        gate: &Gate,
    ) -> Result<Option<Self>> {
        if !config.is_served() && inherited.is_empty() {
            return Ok(None);
        }
        config.check()?;
        let views: Vec<_> = repositories
            .iter()
            .map(|one| Arc::clone(one.view()))
            .collect();
        let names = views.iter().map(|view| view.name().clone());
        check_served_names(&names.collect::<Vec<_>>())?;
        let options = SiteOptions {
            hosts: config.hosts.clone(),
        };
        let (access, audit) = (Arc::clone(&gate.access), Arc::clone(&gate.audit));
        let site = Site::new(views, access, audit, &options)?;
        let tls = config.certificates.as_deref();
        let logins = Logins {
            site: Arc::clone(&site),
            listening: Mutex::default(),
        };
        let web = Self {
            site,
            logins: Arc::new(logins),
            tls: tls
                .map(|path| ServerTls::load_for(path, Clients::Web))
                .transpose()?,
            config: config.clone(),
            inherited,
            servers: Vec::new(),
        };
        for repository in repositories {
            let logins = Arc::clone(&web.logins);
            repository.served().set_login(logins);
        }
        Ok(Some(web))
    }

    /// Listens. The caller must be within the runtime.
    ///
    /// # Errors
    /// `NameTooLong` (a socket), `Busy`, `InvalidInput`, `Io`.
    pub(super) fn listen(&mut self, stopped: &watch::Receiver<bool>) -> Result<()> {
        let mut servers = Vec::new();
        let (mut adopted, mut has_tcp) = (Vec::new(), false);
        for socket in std::mem::take(&mut self.inherited) {
            match socket {
                Inherited::Unix(listener, path) => {
                    servers.push(Server::adopt_unix(listener, &path, &self.site)?);
                    adopted.push(path);
                }
                Inherited::Tcp(listener, address) => {
                    let server = Server::adopt_tcp(listener, self.tls.clone(), &self.site);
                    servers.push(server.at_path(address.to_string())?);
                    has_tcp |= self.config.listen == Some(address);
                }
            }
        }
        for path in self
            .config
            .sockets
            .iter()
            .filter(|path| !adopted.contains(path))
        {
            servers.push(Server::bind_unix(path, &self.site)?);
        }
        if let Some(address) = self.config.listen.filter(|_| !has_tcp) {
            servers.push(Server::bind_tcp(address, self.tls.clone(), &self.site)?);
        }
        let listening = servers.iter().map(Server::listening);
        self.logins.listening.lock().extend(listening);
        for server in servers {
            self.servers.push(tokio::spawn(server.run(stopped.clone())));
        }
        Ok(())
    }

    /// Where it listens.
    pub(super) fn listening(&self) -> Vec<Listening> {
        self.logins.listening.lock().clone()
    }

    /// A login for the person who has started the daemon.
    ///
    /// # Errors
    /// `NotFound` where pages are served on Unix sockets only; as [`Site::make_code`].
    pub(super) fn login(&self) -> Result<LoginAnswer> {
        self.logins.make(&Caller::Owner)
    }

    /// Applies certificates that have changed.
    ///
    /// # Errors
    /// What loading them returns; everything is as before then.
    pub(super) fn reload(&self, new: &HttpConfig) -> Result<()> {
        match (&self.tls, &new.certificates) {
            (Some(tls), Some(certificates)) => tls.reload(certificates),
            _ => Ok(()),
        }
    }

    /// Closes what nobody has used lately.
    pub(super) fn tidy(&self) {
        self.site.tidy();
    }

    /// Waits for the servers, after they were asked to stop.
    pub(super) async fn finish(&mut self) {
        for server in self.servers.drain(..) {
            // A panic of the task has been logged.
            let _ = server.await;
        }
    }
}

/// Makes login codes for callers of the control socket.
struct Logins {
    site: Arc<Site>,
    listening: Mutex<Vec<Listening>>,
}

impl Login for Logins {
    fn make(&self, caller: &Caller) -> Result<LoginAnswer> {
        let listening = self.listening.lock();
        let url = listening.iter().find_map(|place| match place {
            Listening::Url(url) => Some(url.clone()),
            Listening::Unix(_) => None,
        });
        let url = url.ok_or_else(|| {
            Error::not_found("the daemon serves its pages on no address that a browser can open")
                .advise("start it with --http 127.0.0.1:8420, or set http.listen")
        })?;
        let code = self.site.make_code(caller.clone())?;
        Ok(LoginAnswer {
            url: format!("{url}login#{}", code.reveal()),
            code: code.reveal().to_owned(),
            expires_seconds: self.site.code_seconds(),
        })
    }
}
