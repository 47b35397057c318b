package conformance

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
)

const (
	lower    = "abcdefghijklmnopqrstuvwxyz0123456789"
	alnum    = lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	base32ed = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

// random gives n characters of alphabet.
func random(alphabet string, n int) string {
	b := make([]byte, n)
	for i := range b {
		k, _ := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet)))) // never fails since Go 1.24
		b[i] = alphabet[k.Int64()]
	}
	return string(b)
}

// credential is one value to plant: text is what is written, secret what of it
// nobody can guess.
type credential struct{ text, secret string }

func whole(v string) credential { return credential{v, v} }

// password is one without any pattern: only where it stands says what it is.
func password() credential { return whole(random(alnum, 24)) }

// oddPassword has characters that every format escapes in its own way.
func oddPassword() credential { return whole(random(alnum, 10) + `%"<&\` + random(alnum, 10)) }

func githubToken() credential {
	v := random(alnum, 36)
	return credential{"ghp_" + v, v}
}

func awsKeyID() credential {
	v := random(base32ed, 16)
	return credential{"AKIA" + v, v}
}

func databaseURL() credential {
	v := random(alnum, 20)
	return credential{"postgres://app:" + v + "@db.example.com:5432/app", v}
}

func jwt() credential {
	segment := func(v any) string {
		b, _ := json.Marshal(v) // maps of strings
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signature := base64.RawURLEncoding.EncodeToString([]byte(random(alnum, 64)))
	head := segment(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." + segment(map[string]string{"sub": random(lower, 12), "iss": "https://issuer.example.com"})
	return credential{head + "." + signature, signature}
}

// privateKey is a real key in PEM. Of its base64 the first 21 characters are
// the same in every one of its kind.
func privateKey() credential {
	_, key, _ := ed25519.GenerateKey(rand.Reader) // never fails since Go 1.24
	der, _ := x509.MarshalPKCS8PrivateKey(key)    // ed25519 is known
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	b := base64.StdEncoding.EncodeToString(der)
	return credential{string(text), b[len(b)-40:]}
}

// certificate is a self-signed one in PEM; its signature is the secret.
func certificate() (credential, error) {
	_, key, _ := ed25519.GenerateKey(rand.Reader) // never fails since Go 1.24
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial}, &x509.Certificate{SerialNumber: serial}, key.Public(), key)
	if err != nil {
		return credential{}, fmt.Errorf("make a certificate: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return credential{}, fmt.Errorf("read the certificate: %w", err)
	}
	return credential{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(c.Signature)}, nil
}

// signingRequest is a CSR in PEM. Nothing in it is secret.
func signingRequest(name string) string {
	_, key, _ := ed25519.GenerateKey(rand.Reader) // never fails since Go 1.24
	r := &x509.CertificateRequest{}
	r.Subject.CommonName = name
	der, _ := x509.CreateCertificateRequest(rand.Reader, r, key) // ed25519 is known
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}
