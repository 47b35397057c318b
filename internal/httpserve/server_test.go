package httpserve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
)

// ca makes certificates for one test.
type ca struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newCA(t *testing.T) *ca {
	t.Helper()
	c := &ca{t: t, dir: t.TempDir()}
	c.key = newKey(t)
	c.cert = c.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, c.key)
	c.write("ca.crt", "CERTIFICATE", c.cert.Raw)
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (c *ca) sign(tmpl, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	c.t.Helper()
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

func (c *ca) write(name, kind string, der []byte) string {
	c.t.Helper()
	p := filepath.Join(c.dir, name)
	if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// issue makes a certificate of that name and serial, in files name.crt and name.key.
func (c *ca) issue(name string, serial int64) tls.Certificate {
	c.t.Helper()
	key := newKey(c.t)
	leaf := c.sign(&x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, c.cert, key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	// The key first: the pair is loaded when the certificate appears.
	c.write(name+".key", "PRIVATE KEY", der)
	c.write(name+".crt", "CERTIFICATE", leaf.Raw)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

func (c *ca) client(certs ...tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: certs, MinVersion: tls.VersionTLS12},
	}}
}

// start serves s and gives its URL; the server is stopped and waited for when the test ends.
func start(t *testing.T, s *Server) string {
	t.Helper()
	s.Name, s.Listen = "test", "127.0.0.1:0"
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l, err := s.Bind(ctx)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return "https://" + l.Addr().String()
}

func get(c *http.Client, url string) (int, string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })

func TestOnlyNamedClientsAreAnswered(t *testing.T) {
	t.Parallel()
	c := newCA(t)
	c.issue("server", 2)
	good, bad := c.issue("kube-apiserver", 3), c.issue("mallory", 4)
	stranger := newCA(t).issue("kube-apiserver", 5)
	url := start(t, &Server{Handler: hello, TLS: TLS{
		CertFile: filepath.Join(c.dir, "server.crt"), KeyFile: filepath.Join(c.dir, "server.key"),
		ClientCAFile: filepath.Join(c.dir, "ca.crt"), ClientNames: []string{"kube-apiserver"},
	}})
	if code, body, err := get(c.client(good), url); err != nil || code != 200 || body != "hello" {
		t.Errorf("the named client: %d %q %v", code, body, err)
	}
	if code, _, err := get(c.client(bad), url); err != nil || code != http.StatusForbidden {
		t.Errorf("another name of the same CA: %d %v, want 403", code, err)
	}
	if code, _, err := get(c.client(), url); err == nil {
		t.Errorf("no certificate: got %d, want no TLS session", code)
	}
	if code, _, err := get(c.client(stranger), url); err == nil {
		t.Errorf("another CA's certificate: got %d, want no TLS session", code)
	}
}

func TestHTTP2IsSpokenOnlyWhereItIsAskedFor(t *testing.T) {
	t.Parallel()
	c := newCA(t)
	c.issue("server", 2)
	for _, http2 := range []bool{false, true} {
		url := start(t, &Server{Handler: hello, HTTP2: http2, TLS: TLS{CertFile: filepath.Join(c.dir, "server.crt"), KeyFile: filepath.Join(c.dir, "server.key")}})
		client := c.client()
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = true //nolint:forcetypeassert // made so above
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if (resp.ProtoMajor == 2) != http2 {
			t.Errorf("HTTP2 %t: spoke %s", http2, resp.Proto)
		}
	}
}

func TestRotatedCertificateIsServedWithoutRestart(t *testing.T) {
	t.Parallel()
	c := newCA(t)
	c.issue("server", 2)
	url := start(t, &Server{Handler: hello, TLS: TLS{CertFile: filepath.Join(c.dir, "server.crt"), KeyFile: filepath.Join(c.dir, "server.key")}})
	serial := func() int64 {
		resp, err := c.client().Get(url)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 2 {
		t.Fatalf("serial %d, want 2", got)
	}
	c.issue("server", 3)
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		return serial() == 3, nil
	}); err != nil {
		t.Fatal("the new certificate was never served")
	}
}

func TestPanicAnswers500AndLogsNoValue(t *testing.T) {
	t.Parallel()
	c := newCA(t)
	c.issue("server", 2)
	var logged bytes.Buffer
	url := start(t, &Server{
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("s3cret-in-flight") }),
		Log:     slog.New(slog.NewTextHandler(&logged, nil)),
		TLS:     TLS{CertFile: filepath.Join(c.dir, "server.crt"), KeyFile: filepath.Join(c.dir, "server.key")},
	})
	code, _, err := get(c.client(), url)
	if err != nil || code != http.StatusInternalServerError {
		t.Fatalf("got %d %v, want 500", code, err)
	}
	if strings.Contains(logged.String(), "s3cret-in-flight") {
		t.Error("the panic's value was logged")
	}
}

func TestPortInUseSaysWhatToDo(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = (&Server{Name: "authn", Listen: l.Addr().String()}).Bind(t.Context())
	if err == nil || !strings.Contains(err.Error(), "stop what holds that port, or name another in the config") {
		t.Errorf("got %v", err)
	}
}

func TestTLSValidate(t *testing.T) {
	t.Parallel()
	c := newCA(t)
	c.issue("server", 2)
	c.issue("other", 3)
	names := []string{"kube-apiserver"}
	in := func(name string) string { return filepath.Join(c.dir, name) }
	for _, tc := range []struct {
		name string
		tls  TLS
		want []string // fields
	}{
		{"a whole section is taken", TLS{CertFile: in("server.crt"), KeyFile: in("server.key"), ClientCAFile: in("ca.crt"), ClientNames: names}, nil},
		{"who may call must be named", TLS{CertFile: in("server.crt"), KeyFile: in("server.key"), ClientCAFile: in("ca.crt")}, []string{"tls.clientNames"}},
		{"everything missing is told at once", TLS{}, []string{"tls.certFile", "tls.keyFile", "tls.clientCAFile", "tls.clientNames"}},
		{"a key of another certificate is told", TLS{CertFile: in("server.crt"), KeyFile: in("other.key"), ClientCAFile: in("ca.crt"), ClientNames: names}, []string{"tls.certFile"}},
		{"files that aren't there are told", TLS{CertFile: in("no.crt"), KeyFile: in("server.key"), ClientCAFile: in("no-ca.crt"), ClientNames: names}, []string{"tls.certFile", "tls.clientCAFile"}},
		{"a CA file without a CA is told", TLS{CertFile: in("server.crt"), KeyFile: in("server.key"), ClientCAFile: in("server.key"), ClientNames: names}, []string{"tls.clientCAFile"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, e := range tc.tls.Validate(field.NewPath("tls"), true) {
				got = append(got, e.Field)
			}
			if strings.Join(got, " ") != strings.Join(tc.want, " ") {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
