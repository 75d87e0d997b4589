//! Names that give a secret away, whatever tree they are found in.
//!
//! A name in doubt counts as a secret: the secrets bundle is restored, too, whereas a key in the state archive is read
//! by whoever holds the state identity. What is exempt here (examples, public keys, certificates) is still looked
//! into by the content rule. Names are compared without regard to case.

/// Whether a file or link at `path` is a secret by its name, or lies in a directory that is. Relative paths, like the
/// target of a link, are fine.
pub fn name_is_secret(path: &[u8]) -> bool {
    let mut rest = trim_slashes(path);
    if file_is_secret(&Joined { root: b"", rel: rest }) {
        return true;
    }
    while !rest.is_empty() {
        if dir_is_secret(&Joined { root: b"", rel: rest }) {
            return true;
        }
        rest = trim_slashes(super::path::parent(rest).unwrap_or_default());
    }
    false
}

/// A path in two pieces: a source's root, and what stands below it. Saves joining them for each entry.
pub(crate) struct Joined<'a> {
    pub(crate) root: &'a [u8],
    pub(crate) rel: &'a [u8],
}

impl<'a> Joined<'a> {
    /// The components, last first.
    fn backwards(&self) -> impl Iterator<Item = &'a [u8]> {
        let split = |b: &u8| *b == b'/';
        self.rel.rsplit(split).chain(self.root.rsplit(split)).filter(|c| !c.is_empty())
    }

    /// The path without the last `bytes` of its last component.
    fn shorter(&self, bytes: usize) -> Joined<'a> {
        match self.rel.len().checked_sub(bytes) {
            Some(end) => Joined { root: self.root, rel: &self.rel[..end] },
            None => Joined { root: &self.root[..self.root.len().saturating_sub(bytes)], rel: b"" },
        }
    }

    /// Whether the path ends in one of `suffixes`, whole components.
    fn ends_in(&self, suffixes: &[&str]) -> bool {
        let Some(leaf) = self.backwards().next() else { return false };
        suffixes.iter().any(|suffix| {
            // Nearly every path is told apart by its last component, and by the place of the slash alone.
            let fits = suffix.len().checked_sub(leaf.len() + 1).is_none_or(|at| suffix.as_bytes()[at] == b'/');
            fits && suffix.len() >= leaf.len() && {
                let mut parts = self.backwards();
                suffix.rsplit('/').all(|want| parts.next().is_some_and(|p| p.eq_ignore_ascii_case(want.as_bytes())))
            }
        })
    }
}

/// Whether a directory holds nothing but secrets.
pub(crate) fn dir_is_secret(path: &Joined<'_>) -> bool {
    path.ends_in(SECRET_DIRS)
}

/// Whether a file is a secret by its name.
pub(crate) fn file_is_secret(path: &Joined<'_>) -> bool {
    let mut parts = path.backwards();
    let Some(leaf) = parts.next() else { return false };
    let (parent, above) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let lower = leaf.to_ascii_lowercase();
    let plain = without_copy_suffix(&lower);
    leaf_is_secret(plain)
        || ((parent.eq_ignore_ascii_case(b".ssh") || above.eq_ignore_ascii_case(b".ssh")) && ssh_file_is_secret(plain))
        || path.ends_in(SECRET_FILES)
        || (plain.len() < leaf.len() && path.shorter(leaf.len() - plain.len()).ends_in(SECRET_FILES))
}

/// Directories of which everything below is a secret.
const SECRET_DIRS: &[&str] = &[
    ".gnupg/private-keys-v1.d",
    ".gnupg/openpgp-revocs.d",
    ".password-store",
    ".aws/sso/cache",
    ".aws/cli/cache",
    ".aws/login/cache",
    ".config/anthropic",
    ".config/age",
    ".config/sops/age",
    ".config/gcloud/legacy_credentials",
    ".config/gcloud/application_default_credentials",
    ".azure/tokencache",
    ".local/share/keyrings",
    ".config/1password",
    ".config/op",
    ".config/bitwarden cli",
    "networkmanager/system-connections",
    "etc/letsencrypt/archive",
    "etc/letsencrypt/accounts",
    "etc/ssl/private",
    "mcp-tokens",
    "run/secrets",
    "platforms/whatsapp/session",
];

/// Files that are secret in these directories, while their bare names are ordinary.
const SECRET_FILES: &[&str] = &[
    ".aws/credentials",
    ".aws/config",
    ".docker/config.json",
    ".kube/config",
    "gh/hosts.yml",
    "gh/hosts.yaml",
    ".config/hub",
    "glab-cli/config.yml",
    ".config/gcloud/credentials.db",
    ".config/gcloud/access_tokens.db",
    ".azure/accesstokens.json",
    ".azure/msal_token_cache.json",
    ".azure/msal_token_cache.bin",
    ".azure/service_principal_entries.json",
    ".azure/service_principal_entries.bin",
    ".cargo/credentials",
    ".gem/credentials",
    ".bundle/config",
    ".m2/settings.xml",
    ".m2/settings-security.xml",
    ".gradle/gradle.properties",
    ".oci/config",
    ".snowsql/config",
    ".snowflake/config.toml",
    ".fly/config.yml",
    ".netlify/config.json",
    ".wrangler/config/default.toml",
    ".config/.wrangler/config/default.toml",
    ".config/doctl/config.yaml",
    ".config/hcloud/cli.toml",
    ".config/stripe/config.toml",
    ".config/ngrok/ngrok.yml",
    ".ngrok2/ngrok.yml",
    ".cloudflared/cert.pem",
    ".config/github-copilot/hosts.json",
    ".config/github-copilot/apps.json",
    ".config/rclone/rclone.conf",
    ".copilot/config.json",
    ".continue/config.json",
    ".continue/config.yaml",
    ".huggingface/token",
    "huggingface/token",
    "huggingface/stored_tokens",
    "etc/shadow",
    "etc/gshadow",
    ".hermes/config.yaml",
    ".openclaw/openclaw.json",
    ".codex/config.toml",
    ".claude/settings.json",
    ".claude/settings.local.json",
    ".cursor/mcp.json",
    ".vscode/mcp.json",
    ".gemini/settings.json",
];

/// What editors, tools and people append to a copy, and SQLite to a database's companions.
const COPY_SUFFIXES: &[&[u8]] = &[
    b"~",
    b".bak",
    b".backup",
    b".old",
    b".orig",
    b".save",
    b".swp",
    b".tmp",
    b".prev",
    b".new",
    b"-wal",
    b"-shm",
    b"-journal",
];

/// Last parts of a name that mark a file as a pattern to copy, without values.
const EXAMPLES: &[&[u8]] =
    &[b".example", b".examples", b".sample", b".template", b".tmpl", b".tpl", b".dist", b".defaults", b".schema"];

fn leaf_is_secret(name: &[u8]) -> bool {
    if EXAMPLES.iter().any(|e| name.ends_with(e)) {
        return false;
    }
    exact_leaf_is_secret(name)
        || name.starts_with(b".env.")
        || (name.starts_with(b"service-account") || name.starts_with(b"service_account")) && name.ends_with(b".json")
        || (name.starts_with(b"client_secret") && name.ends_with(b".json"))
        || (contains(name, b"firebase-adminsdk") && name.ends_with(b".json"))
        || ssh_key_name(name)
        || extension_is_secret(name)
}

fn exact_leaf_is_secret(name: &[u8]) -> bool {
    matches!(
        name,
        // Environment and tokens of agents and their tools.
        b".env" | b".envrc" | b".dev.vars" | b"auth.json" | b"auth-profiles.json" | b".credentials.json"
            | b"credentials.json" | b"credentials.toml" | b"credentials.yaml" | b"credentials.yml"
            | b"secret.json" | b"secret.yaml" | b"secret.yml" | b"secret.toml"
            | b"secrets.json" | b"secrets.yaml" | b"secrets.yml" | b"secrets.toml" | b"secrets.env"
            | b"oauth_creds.json" | b"oauth-keys.env" | b"oauth.json" | b"google_accounts.json"
            | b".anthropic_oauth.json" | b"google_token.json" | b"google_oauth.json" | b"google_oauth_pending.json"
            | b"slack_tokens.json" | b"node_token.json" | b"token.json" | b"tokens.json" | b"token.pickle"
            | b"access_token" | b"refresh_token" | b"api_key" | b"api_key.txt" | b"apikey.txt"
            | b"webhook_subscriptions.json" | b"gemini-credentials.json" | b"mcp-oauth-tokens.json"
            | b".claude.json" | b".mcp.json" | b"mcp_settings.json" | b"cline_mcp_settings.json" | b"mcp_config.json"
            | b"claude_desktop_config.json" | b".aider.conf.yml" | b"bws_cache.json" | b"lifeboat-key.txt"
            // Databases that hold logins beside everything else.
            | b"openclaw.sqlite" | b"openclaw-agent.sqlite" | b"state.vscdb" | b"connectors.db"
            // Package registries, version control, shells and clients.
            | b".netrc" | b"_netrc" | b".pgpass" | b".pypirc" | b".npmrc" | b".yarnrc.yml" | b".git-credentials"
            | b".gitconfig" | b".htpasswd" | b".my.cnf" | b".mylogin.cnf" | b".s3cfg" | b".boto" | b".dockercfg"
            | b".dockerconfigjson" | b".vault-token" | b".vault_pass" | b".vault_pass.txt" | b".vault-password"
            | b".databrickscfg" | b".terraformrc" | b"terraform.rc" | b"credentials.tfrc.json" | b"kaggle.json"
            | b"rclone.conf" | b".rclone.conf" | b"kubeconfig" | b"application_default_credentials.json"
            | b".smbcredentials" | b".erlang.cookie" | b".renviron" | b".xauthority" | b"wallet.dat" | b"ssh_private_key"
            | b"secring.gpg" | b"master.passwd"
    )
}

fn extension_is_secret(name: &[u8]) -> bool {
    let Some(dot) = name.iter().rposition(|b| *b == b'.') else { return false };
    let (stem, extension) = (&name[..dot], &name[dot + 1..]);
    match extension {
        b"env" | b"p12" | b"pfx" | b"pkcs12" | b"p8" | b"jks" | b"jceks" | b"bks" | b"keystore" | b"kdbx" | b"kdb"
        | b"ppk" | b"agekey" | b"keytab" | b"ovpn" | b"keyring" | b"keychain" | b"keychain-db" | b"kubeconfig"
        | b"creds" | b"nk" | b"tfstate" | b"tfvars" => true,
        b"pem" => !says_public(stem) && !says_certificate(stem),
        b"key" => !says_public(stem),
        _ => false,
    }
}

/// `id_rsa`, `id_ed25519_work`, `ssh_host_rsa_key`, but not their public halves.
fn ssh_key_name(name: &[u8]) -> bool {
    if name.ends_with(b".pub") || contains(name, b".pub.") || name.ends_with(b"-cert") {
        return false;
    }
    if name.starts_with(b"ssh_host_") && name.ends_with(b"_key") {
        return true;
    }
    let Some(rest) = name.strip_prefix(b"id_") else { return false };
    [&b"rsa"[..], b"dsa", b"ecdsa", b"ed25519", b"ed448", b"xmss"].iter().any(|kind| {
        rest.strip_prefix(*kind).is_some_and(|tail| tail.is_empty() || matches!(tail[0], b'_' | b'-' | b'.'))
    })
}

/// In `.ssh`, what is not known to be harmless is a key.
fn ssh_file_is_secret(name: &[u8]) -> bool {
    let harmless = name == b"config"
        || name == b"rc"
        || name == b"allowed_signers"
        || name.starts_with(b"known_hosts")
        || name.starts_with(b"authorized_keys")
        || name.ends_with(b".pub")
        || name.ends_with(b".conf")
        || name.ends_with(b".md");
    !harmless
}

/// The name of a public key: a word of it is `pub` or `public`.
fn says_public(stem: &[u8]) -> bool {
    words(stem).any(|w| matches!(w, b"pub" | b"public" | b"pubkey" | b"publickey"))
}

/// The name of a certificate or of what belongs to one. A private key inside is found by the content rule.
fn says_certificate(stem: &[u8]) -> bool {
    let private = words(stem).any(|w| matches!(w, b"key" | b"priv" | b"private" | b"privkey"));
    let certificate = words(stem).any(|w| {
        matches!(
            w,
            b"cert"
                | b"certs"
                | b"cacert"
                | b"cacerts"
                | b"certificate"
                | b"certificates"
                | b"ca"
                | b"bundle"
                | b"chain"
                | b"fullchain"
                | b"roots"
                | b"root"
                | b"crt"
                | b"cer"
                | b"csr"
                | b"dhparam"
                | b"dhparams"
        )
    });
    certificate && !private
}

/// The parts of a name between dots, dashes and underscores, without digits at their ends.
fn words(stem: &[u8]) -> impl Iterator<Item = &[u8]> {
    stem.split(|b| matches!(b, b'.' | b'-' | b'_' | b' ')).map(|w| {
        let end = w.iter().rposition(|b| !b.is_ascii_digit()).map_or(0, |i| i + 1);
        &w[..end]
    })
}

/// The name without `.bak`, `~` and the like: a copy of a secret is one.
fn without_copy_suffix(name: &[u8]) -> &[u8] {
    let mut rest = name;
    // Each round takes a suffix off, and no name has more than a few.
    while let Some(shorter) = COPY_SUFFIXES.iter().find_map(|s| rest.strip_suffix(*s)).filter(|s| !s.is_empty()) {
        rest = shorter;
    }
    rest
}

fn contains(name: &[u8], part: &[u8]) -> bool {
    name.windows(part.len()).any(|w| w == part)
}

fn trim_slashes(mut path: &[u8]) -> &[u8] {
    while let [head @ .., b'/'] = path {
        path = head;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names() {
        for path in [
            ".env",
            "a/.env",
            ".env.local",
            ".env.production",
            "prod.env",
            "auth.json",
            "auth-profiles.json",
            ".credentials.json",
            "x/credentials.json",
            "secrets.yaml",
            "secrets.toml",
            "oauth_creds.json",
            "oauth-keys.env",
            ".netrc",
            "_netrc",
            ".pgpass",
            ".pypirc",
            ".npmrc",
            ".git-credentials",
            ".htpasswd",
            "id_rsa",
            "id_ed25519_work",
            "ID_RSA",
            "id_ecdsa_sk",
            "id_rsa.bak",
            "server.pem",
            "privkey.pem",
            "cert-key.pem",
            "server.key",
            "a.p12",
            "a.pfx",
            "a.jks",
            "a.keystore",
            "a.kdbx",
            "a.ppk",
            ".vault-token",
            "u/.aws/credentials",
            ".aws/config",
            ".docker/config.json",
            ".kube/config",
            ".config/gh/hosts.yml",
            "gh/hosts.yml",
            ".cargo/credentials",
            ".cargo/credentials.toml",
            "rclone.conf",
            ".config/gcloud/legacy_credentials/x/adc.json",
            ".config/gcloud/application_default_credentials.json",
            ".azure/msal_token_cache.json",
            ".gnupg/private-keys-v1.d/AB.key",
            ".gnupg/private-keys-v1.d",
            ".ssh/work",
            ".ssh/keys/x",
            ".ssh/id_rsa",
            "service-account.json",
            "service-account-prod.json",
            "token.json",
            ".mcp.json",
            "../../.env",
            "/x/.env/",
            "auth.json.bak",
            ".env.bak",
            ".npmrc~",
            "ssh_host_ed25519_key",
            ".envrc",
            "x/openclaw.sqlite-wal",
            ".claude/settings.json",
            "home/u/mcp-tokens/x/y.json",
            ".aws/credentials.bak",
            ".claude/settings.json~",
            ".cloudflared/cert.pem",
        ] {
            assert!(name_is_secret(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn ordinary_names() {
        for path in [
            ".env.example",
            ".env.sample",
            ".env.template",
            ".env.dist",
            ".env.defaults",
            ".env.schema",
            ".env.production.example",
            "auth.json.example",
            "id_rsa.pub",
            "id_rsa_work.pub",
            "cert.pem",
            "a.pub.pem",
            "public.pem",
            "ca-bundle.pem",
            "cacert.pem",
            "fullchain1.pem",
            "public.key",
            "credentials",
            "config",
            "config.json",
            "a/config",
            "hosts.yml",
            "secrets.py",
            "token.rs",
            "auth.ts",
            "src/keys.rs",
            "environment",
            "env",
            ".ssh/config",
            ".ssh/known_hosts",
            ".ssh/known_hosts.old",
            ".ssh/authorized_keys",
            ".ssh/x.pub",
            ".ssh",
            "tokenizer.json",
            "added_tokens.json",
            "settings.json",
            "x.aws/credentials",
            "state.db",
            "monkey.txt",
            "",
            "/",
            "key",
            "pem",
            "a/.env.d.example",
            "package-lock.json",
        ] {
            assert!(!name_is_secret(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn a_root_is_part_of_the_path() {
        let path = |rel| Joined { root: b"/home/u/.aws", rel };
        assert!(file_is_secret(&path(b"credentials")));
        assert!(!file_is_secret(&path(b"x/credentials")));
        assert!(dir_is_secret(&path(b"sso/cache")));
    }
}
