package schema

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	dialTimeout = 5 * time.Second
	// readTimeout bounds the wait for one packet of an answer, or over HTTP for
	// the whole of it: a context's deadline is the shorter bound where it is set.
	readTimeout = 5 * time.Minute
)

// ports that ClickHouse serves each protocol on unless told otherwise.
var ports = map[string]string{"http": "8123", "https": "8443", "clickhouse": "9000", "clickhouses": "9440"}

// ClickHouse is where the audit trail is kept.
type ClickHouse struct {
	// URL is http[s]://host[:port] for ClickHouse's HTTP interface or
	// clickhouse[s]://host[:port] for its native protocol; the s means TLS.
	URL string `json:"url"`
	// Username and PasswordFile are whom to be. Empty means ClickHouse's
	// default user, and no password.
	Username     string `json:"username,omitempty"`
	PasswordFile string `json:"passwordFile,omitempty"`
}

// Validate reports everything wrong with c, a password file that can't be read included.
func (c ClickHouse) Validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.URL == "" {
		errs = append(errs, field.Required(at.Child("url"), `ClickHouse to write to, such as "http://127.0.0.1:8123"`))
	} else if u, err := c.parse(); err != nil {
		errs = append(errs, field.Forbidden(at.Child("url"), err.Error())) // not Invalid: it prints the value, which may hold a password
	} else if _, has := u.User.Password(); has {
		errs = append(errs, field.Forbidden(at.Child("url"), "must hold no password: name a file with it in passwordFile"))
	}
	if c.PasswordFile != "" {
		if _, err := os.ReadFile(c.PasswordFile); err != nil {
			errs = append(errs, field.Invalid(at.Child("passwordFile"), c.PasswordFile, "can't be read"))
		}
	}
	return errs
}

// parse takes the URL apart. Its error never quotes it.
func (c ClickHouse) parse() (*url.URL, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || ports[u.Scheme] == "" {
		return nil, fmt.Errorf("ClickHouse's URL must be http[s]://host:port or clickhouse[s]://host:port")
	}
	return u, nil
}

// Address is the host:port to call.
func (c ClickHouse) Address() (string, error) {
	u, err := c.parse()
	if err != nil {
		return "", err
	}
	port := u.Port()
	if port == "" {
		port = ports[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// Credentials are the user and password to present. The password file is read
// anew each time; a final newline is not part of the password.
func (c ClickHouse) Credentials() (user, password string, err error) {
	u, err := c.parse()
	if err != nil {
		return "", "", err
	}
	user, password = c.Username, ""
	if u.User != nil {
		password, _ = u.User.Password()
		if user == "" {
			user = u.User.Username()
		}
	}
	if c.PasswordFile != "" {
		b, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return "", "", fmt.Errorf("read ClickHouse's password: %w", err)
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	return user, password, nil
}

// Open connects and asks for a sign of life. The caller closes the connection.
func (c ClickHouse) Open(ctx context.Context) (driver.Conn, error) {
	u, err := c.parse()
	if err != nil {
		return nil, err
	}
	addr, err := c.Address()
	if err != nil {
		return nil, err
	}
	user, password, err := c.Credentials()
	if err != nil {
		return nil, err
	}
	// No database: the very first migration makes it, and every statement names it.
	opts := &clickhouse.Options{
		Protocol:    clickhouse.Native,
		Addr:        []string{addr},
		Auth:        clickhouse.Auth{Username: user, Password: password},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		DialTimeout: dialTimeout,
		ReadTimeout: readTimeout,
	}
	opts.ClientInfo.Products = append(opts.ClientInfo.Products, struct{ Name, Version string }{"tipstaff", ""})
	if strings.HasPrefix(u.Scheme, "http") {
		opts.Protocol = clickhouse.HTTP
	}
	if strings.HasSuffix(u.Scheme, "s") {
		opts.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}
	}
	conn, err := clickhouse.Open(opts)
	if err != nil {
		return nil, fmt.Errorf("open ClickHouse at %s: %w", addr, err)
	}
	if err := conn.Ping(ctx); err != nil {
		_ = conn.Close() // never used
		return nil, fmt.Errorf("ClickHouse at %s doesn't answer: %w", addr, err)
	}
	return conn, nil
}
