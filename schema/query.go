package schema

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxErrorBytes bounds what is read of a refusal.
const maxErrorBytes = 4 << 10

// escaped writes a value as ClickHouse reads it: with TSV's escapes.
var escaped = strings.NewReplacer("\\", "\\\\", "\t", "\\t", "\n", "\\n", "\r", "\\r", "\x00", "\\0")

// Query sends sql to ClickHouse's HTTP interface and copies the answer to w, in
// format unless the SQL itself names one; an empty format means PrettyCompact.
func Query(ctx context.Context, c ClickHouse, sql, format string, w io.Writer) error {
	return query(ctx, c, sql, format, nil, w)
}

// query is Query with values for {name:Type} in sql.
func query(ctx context.Context, c ClickHouse, sql, format string, values map[string]string, w io.Writer) error {
	u, err := c.parse()
	if err != nil {
		return err
	}
	if !strings.HasPrefix(u.Scheme, "http") {
		return fmt.Errorf("a query needs ClickHouse's HTTP interface: give an http:// or https:// URL")
	}
	addr, err := c.Address()
	if err != nil {
		return err
	}
	user, password, err := c.Credentials()
	if err != nil {
		return err
	}
	if format == "" {
		format = "PrettyCompactMonoBlock"
	}
	// An answer that fails halfway must not end like a whole one.
	params := url.Values{"default_format": {format}, "wait_end_of_query": {"1"}}
	for name, v := range values {
		params.Set("param_"+name, escaped.Replace(v))
	}
	target := url.URL{Scheme: u.Scheme, Host: addr, Path: "/", RawQuery: params.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(sql))
	if err != nil {
		return fmt.Errorf("query ClickHouse: %w", err)
	}
	if user != "" || password != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("query ClickHouse: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end or given up
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes)) // as much as came
		return fmt.Errorf("ClickHouse refused: %s", clean(strings.TrimSpace(string(text))))
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read ClickHouse's answer: %w", err)
	}
	if code := resp.Trailer.Get("X-ClickHouse-Exception-Code"); code != "" {
		return fmt.Errorf("ClickHouse failed in the midst of its answer: code %s", code)
	}
	return nil
}
