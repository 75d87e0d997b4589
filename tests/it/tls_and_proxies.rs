//! Certificates of one's own, and proxies: what companies put between a machine and its store.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use lifeboat::Error;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use crate::fake_cloud::{Cloud, Kind};
use crate::forge::said;
use crate::store_contract::{machine, open};
use crate::world::Machine;

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls").join(name)
}

/// A bucket behind a certificate for `store.test` and `localhost` that only `ca.pem` vouches for.
fn secure() -> Cloud {
    let certificate = CertificateDer::from_pem_file(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Cloud::start_behind(Kind::S3, Some(TlsAcceptor::from(Arc::new(config))))
}

fn with(cloud: &Cloud, variables: &[(&str, &str)]) -> Machine {
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    machine(cloud.credentials("ADMIN").into_iter().chain(variables))
}

fn everything(error: &Error) -> String {
    format!("{} {error:?}", said(error))
}

#[test]
fn a_certificate_counts_if_its_authority_is_named() {
    let cloud = secure();
    let url = format!("s3://bucket/p?endpoint=https://localhost:{}", cloud.port);
    let ca = file("ca.pem");
    for variable in ["LIFEBOAT_CA_FILE", "AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        let machine = with(&cloud, &[(variable, ca.to_str().unwrap())]);
        let store = open(&machine.world, &url);
        store.put(variable, "content").unwrap();
        assert_eq!(store.get(variable, 7).unwrap(), "content");
    }
    let error = open(&with(&cloud, &[]).world, &url).put("a", "x").unwrap_err();
    assert!(everything(&error).contains("certificate") && everything(&error).contains("LIFEBOAT_CA_FILE"), "{error:?}");
    // The right authority, for another name.
    let named = url.replace("localhost", "127.0.0.1");
    let machine = with(&cloud, &[("LIFEBOAT_CA_FILE", ca.to_str().unwrap())]);
    assert!(open(&machine.world, &named).put("a", "x").is_err());
    let missing = with(&cloud, &[("LIFEBOAT_CA_FILE", "/nowhere/ca.pem")]);
    let error = open(&missing.world, &url).put("a", "x").unwrap_err();
    assert!(everything(&error).contains("/nowhere/ca.pem"), "{error:?}");
    assert_eq!(cloud.state.lock().unwrap().objects.len(), 3);
}

/// A proxy that leads everybody to one port, and takes down what it was asked for.
fn proxy(to: u16, answer: &'static str) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                let mut near = near.unwrap();
                let mut head = String::new();
                let mut reader = BufReader::new(near.try_clone().unwrap());
                while reader.read_line(&mut head).unwrap_or(0) > 2 {}
                let mut far = TcpStream::connect(("127.0.0.1", to)).unwrap();
                if head.starts_with("CONNECT ") {
                    near.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).unwrap();
                } else {
                    // What a proxy does with a whole URL: the server is asked for its path.
                    let (first, rest) = head.split_once("\r\n").unwrap();
                    let path = first.split_once("//").unwrap().1.split_once('/').unwrap().1;
                    let method = first.split(' ').next().unwrap();
                    far.write_all(format!("{method} /{path}\r\n{rest}").as_bytes()).unwrap();
                }
                log.lock().unwrap().push(head);
                let (mut back, mut there) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut back, &mut there).map(|_| ()).unwrap_or(()));
                let mut piece = vec![0; 1 << 16];
                while let Ok(n @ 1..) = reader.read(&mut piece) {
                    if far.write_all(&piece[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    (port, asked)
}

#[test]
fn a_proxy_is_used_as_the_environment_says() {
    let cloud = secure();
    let (port, asked) = proxy(cloud.port, "200 Connection established");
    let ca = file("ca.pem");
    let address = format!("http://ada:p%40ss@127.0.0.1:{port}");
    let variables = [("LIFEBOAT_CA_FILE", ca.to_str().unwrap()), ("HTTPS_PROXY", address.as_str())];
    let url = "s3://bucket/p?endpoint=https://store.test";
    // Nobody knows the host but the proxy.
    open(&with(&cloud, &variables).world, url).put("a", "content").unwrap();
    let head = asked.lock().unwrap()[0].clone();
    assert!(head.starts_with("CONNECT store.test:443 HTTP/1.1\r\n"), "{head}");
    // ada:p@ss
    assert!(head.contains("\r\nProxy-Authorization: Basic YWRhOnBAc3M=\r\n"), "{head}");
    // A host that is exempt is asked itself, and cannot be found.
    let exempt = [variables[0], variables[1], ("NO_PROXY", "example.org, .test")];
    assert!(open(&with(&cloud, &exempt).world, url).put("b", "x").is_err());
    assert_eq!(cloud.state.lock().unwrap().objects.len(), 1);
}

#[test]
fn a_proxy_that_refuses_is_named_without_its_password() {
    let cloud = secure();
    let (port, _) = proxy(cloud.port, "407 Proxy Authentication Required");
    let address = format!("http://ada:hush@127.0.0.1:{port}");
    let machine = with(&cloud, &[("HTTPS_PROXY", &address)]);
    let error = open(&machine.world, "s3://bucket/p?endpoint=https://store.test").put("a", "x").unwrap_err();
    let text = everything(&error);
    assert!(text.contains("the proxy 127.0.0.1: it asks for another login") && !text.contains("hush"), "{text}");
}

#[test]
fn plain_http_goes_through_a_proxy_as_a_whole_url() {
    let cloud = Cloud::start(Kind::S3);
    let (port, asked) = proxy(cloud.port, "200 OK");
    let machine = with(&cloud, &[("HTTP_PROXY", &format!("127.0.0.1:{port}"))]);
    open(&machine.world, "s3://bucket/p?endpoint=http://store.test").put("a", "content").unwrap();
    assert!(asked.lock().unwrap()[0].starts_with("PUT http://store.test/bucket/p/a HTTP/1.1\r\n"));
    assert_eq!(cloud.state.lock().unwrap().objects.len(), 1);
}
