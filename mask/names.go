package mask

import (
	"bytes"
	"strings"
)

// credentialName reports whether a name, such as an environment variable's, a
// flag's or a ConfigMap key's, says that its value is a credential. It looks at
// the words that the name is made of: DB_PASSWORD, --api-key, clientSecret.
func credentialName(name []byte) bool {
	if len(name) < 3 || len(name) > 128 {
		return false
	}
	var words [16]string
	n := 0
	var lower [128]byte
	for i, b := range name {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		lower[i] = b
	}
	from := 0
	word := func(to int) {
		if to > from && n < len(words) {
			words[n] = sortWord(lower[from:to])
			n++
		}
	}
	for i, b := range name {
		upper := 'A' <= b && b <= 'Z'
		switch {
		case !upper && (b < 'a' || b > 'z') && (b < '0' || b > '9'):
			word(i)
			from = i + 1
		case upper && i > from && ('a' <= name[i-1] && name[i-1] <= 'z' || '0' <= name[i-1] && name[i-1] <= '9'):
			word(i)
			from = i
		}
	}
	word(len(name))
	if n == 0 {
		return false
	}
	last := n - 1
	for last > 0 && filler(words[last]) {
		last--
	}
	switch words[last] {
	case "credential", "secret":
		return true
	case "key":
		return last > 0 && (words[last-1] == "keyed" || words[last-1] == "secret" || words[last-1] == "credential")
	}
	return false
}

// sortWord sorts a word: "credential" and "secret" make a name one, "key" does
// after a word that is "keyed", "filler" may follow, and anything else ("")
// makes it the name of something about a credential: its file, its length.
func sortWord(word []byte) string {
	switch string(word) {
	case "password", "passwd", "passwort", "pass", "pwd", "passphrase", "passcode", "pw",
		"token", "apikey", "apitoken", "accesstoken", "authtoken", "secretkey", "accesskey", "privatekey",
		"credential", "credentials", "creds", "authorization", "dsn", "cookie", "bearer", "jwt", "pat",
		"clientsecret", "connectionstring", "pgpassword", "dbpassword", "userpassword", "rootpassword", "mysqlpassword", "signingkey", "encryptionkey", "webhooksecret", "kubeconfig", "dockerconfigjson", "htpasswd", "pgpass", "netrc":
		return "credential"
	case "secret", "secrets":
		return "secret"
	case "key":
		return "key"
	case "api", "access", "private", "encryption", "signing", "master", "auth", "session", "account", "service",
		"hmac", "crypt", "cipher", "license", "ssh", "rsa", "storage", "shared", "client", "deploy", "admin", "app", "write", "root", "aes", "tls":
		return "keyed"
	case "data", "base64", "b64", "string", "value", "plain", "text", "txt", "json", "yaml", "base", "old", "new", "0", "1", "2", "3", "prod", "dev", "staging", "test", "live", "encoded", "raw", "current", "previous", "primary", "secondary", "default", "id_rsa":
		return "filler"
	}
	for _, end := range [...]string{"password", "passwd", "passphrase", "apikey", "secretkey"} {
		if bytes.HasSuffix(word, []byte(end)) {
			return "credential"
		}
	}
	return ""
}

func filler(word string) bool { return word == "filler" }

// fieldName reports whether the name of a field of any object says that its
// text is a credential. It is stricter than credentialName: Kubernetes has many
// fields that name a Secret or a key.
func fieldName(name []byte) bool {
	n := len(name)
	if n < 5 {
		return false
	}
	// The last two letters first: most names end otherwise.
	var ends []string
	switch [2]byte{name[n-2] | 0x20, name[n-1] | 0x20} {
	case [2]byte{'r', 'd'}:
		ends = []string{"password"}
	case [2]byte{'w', 'd'}:
		ends = []string{"passwd"}
	case [2]byte{'s', 'e'}:
		ends = []string{"passphrase"}
	case [2]byte{'e', 'n'}:
		ends = []string{"token"}
	case [2]byte{'e', 't'}:
		ends = []string{"clientsecret", "client_secret", "client-secret"}
	case [2]byte{'e', 'y'}:
		ends = []string{"apikey", "api_key", "api-key", "secretkey", "secret_key", "privatekey", "private_key", "accesskey", "access_key"}
	}
	for _, end := range ends {
		if n >= len(end) && strings.EqualFold(string(name[n-len(end):]), end) {
			return true
		}
	}
	return false
}

// publicKey reports whether the name of a Secret's value says that the value is
// no secret by itself. It is masked, but it stands in many places: it isn't
// looked for there.
func publicKey(name []byte) bool {
	switch strings.ToLower(string(name)) {
	case "namespace", "ca.crt", "service-ca.crt", "ca", "tls.crt", "cert", "crt", "username", "user", "host", "hostname", "port", "endpoint", "server",
		"database", "dbname", "db", "type", "name", "region", "bucket", "email", "client-id", "clientid", "client_id", "id", "kind", "role", "schema", "scheme", "protocol":
		return true
	}
	return false
}

// trivial reports whether a text can't be a credential: nothing, a switch, a
// reference to where the credential is, or a mark.
func trivial(text []byte) bool {
	t := bytes.TrimSpace(text)
	switch string(bytes.ToLower(t[:min(len(t), 8)])) {
	case "", "true", "false", "null", "none", "nil", "yes", "no", "on", "off", "<nil>", "~":
		return true
	}
	if len(t) > 3 && (t[0] == '$' && (t[1] == '(' && t[len(t)-1] == ')' || t[1] == '{' && t[len(t)-1] == '}') && !bytes.ContainsAny(t[2:len(t)-1], "$ ") ||
		bytes.HasPrefix(t, []byte("{{")) && bytes.HasSuffix(t, []byte("}}"))) {
		return true
	}
	return len(bytes.Trim(t, "*xX.-")) == 0 || len(t) == markLen && isMark(string(t))
}
