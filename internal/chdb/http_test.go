package chdb_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/tipstaff-dev/tipstaff/internal/chdb"
)

func TestHTTP(t *testing.T) {
	t.Parallel()
	base := server(t)
	sql(t, base, "CREATE DATABASE other")
	sql(t, base, "CREATE TABLE other.kept (a Int32, s String) ENGINE = MergeTree ORDER BY a")
	for _, c := range []struct {
		name   string
		method string // POST when empty
		params url.Values
		body   string
		status int // 200 when 0
		code   string
		want   string // whole body, or what it contains for errors
	}{
		{name: "a query in the body answers tab separated", body: "SELECT 1, 'a\tb'", want: "1\ta\\tb\n"},
		{name: "a query in the URL by GET", method: "GET", params: url.Values{"query": {"SELECT 2"}}, want: "2\n"},
		{name: "a query split over URL and body", params: url.Values{"query": {"SELECT 1 +"}}, body: "2", want: "3\n"},
		{name: "the format is named in the query", body: "SELECT 1 AS a FORMAT JSONEachRow", want: "{\"a\":1}\n"},
		{name: "the format is named in the URL", params: url.Values{"default_format": {"CSV"}}, body: "SELECT 1, 'x'", want: "1,\"x\"\n"},
		{name: "the query's format wins over the URL's", params: url.Values{"default_format": {"CSV"}}, body: "SELECT 1 AS a FORMAT TSVWithNames;", want: "a\n1\n"},
		{name: "a database in the URL", params: url.Values{"database": {"other"}}, body: "SELECT currentDatabase()", want: "other\n"},
		{name: "parameters of a query", params: url.Values{"param_s": {"it's"}, "param_n": {"7"}}, body: "SELECT {s:String}, {n:UInt8}", want: "it\\'s\t7\n"},
		{name: "settings in the URL", params: url.Values{"max_threads": {"1"}}, body: "SELECT getSetting('max_threads')", want: "1\n"},
		{name: "settings of one query do not reach the next", body: "SELECT getSetting('max_threads') > 1 OR 1", want: "1\n"},
		{name: "an empty answer", body: "SELECT 1 WHERE 0", want: ""},
		{name: "an INSERT with its data in the body", params: url.Values{"query": {"INSERT INTO other.kept FORMAT TSV"}}, body: "1\ta\n2\tb\\nb\n"},
		{name: "an INSERT with VALUES", body: "INSERT INTO other.kept (a, s) VALUES (3, 'c;d'), (2+2, 'FORMAT x');"},
		{name: "an INSERT with FORMAT and JSON rows", body: "INSERT INTO other.kept SETTINGS max_threads=1 FORMAT JSONEachRow {\"a\":5,\"s\":\"e\"}\n{\"a\":6,\"s\":\"f\"}\n"},
		{name: "an INSERT from a SELECT", body: "INSERT INTO other.kept SELECT 7, 'VALUES'"},
		{name: "what was inserted is there", body: "SELECT * FROM other.kept ORDER BY a", want: "1\ta\n2\tb\\nb\n3\tc;d\n4\tFORMAT x\n5\te\n6\tf\n7\tVALUES\n"},
		{name: "WITH TOTALS has its totals", body: "SELECT a % 2 AS k, count() FROM other.kept GROUP BY k WITH TOTALS ORDER BY k -- x", want: "0\t3\n1\t4\n\n0\t7\n"},
		{name: "a format with a head, settings behind it", body: "SELECT 1 AS a FORMAT CSVWithNames SETTINGS max_threads = 1;", want: "\"a\"\n1\n"},
		{name: "a format with a head, by GET", method: "GET", params: url.Values{"query": {"SELECT 1 AS a"}, "default_format": {"CSVWithNames"}}, want: "\"a\"\n1\n"},
		{name: "blank lines before a format with a head", body: "\n\n  SELECT 1 AS a FORMAT CSVWithNames", want: "\"a\"\n1\n"},
		{name: "blank lines before one that the URL names", params: url.Values{"default_format": {"CSVWithNames"}}, body: "\n\n  SELECT 1 AS a", want: "\"a\"\n1\n"},
		{name: "an unknown format is 404 and 73", params: url.Values{"default_format": {"Nosuch"}}, body: "SELECT 1", status: 404, code: "73", want: "UNKNOWN_FORMAT"},
		{name: "a format that is none is refused", params: url.Values{"default_format": {"TSV SETTINGS readonly = 0"}}, body: "SELECT 1", status: 404, code: "73", want: "UNKNOWN_FORMAT"},
		{name: "SHOW and DESCRIBE answer", body: "SHOW TABLES FROM other", want: "kept\n"},
		{name: "a syntax error is 400 and 62", body: "SELEC 1", status: 400, code: "62", want: "SYNTAX_ERROR"},
		{name: "an unknown table is 404 and 60", body: "SELECT * FROM nosuch", status: 404, code: "60", want: "UNKNOWN_TABLE"},
		{name: "an unknown setting is 404 and 115", params: url.Values{"nosuch": {"1"}}, body: "SELECT 1", status: 404, code: "115", want: "nosuch"},
		{name: "an unknown database is 404 and 81", params: url.Values{"database": {"no`such"}}, body: "SELECT 1", status: 404, code: "81", want: "UNKNOWN_DATABASE"},
		{name: "bad data of an INSERT is 400 and 27", params: url.Values{"query": {"INSERT INTO other.kept FORMAT TSV"}}, body: "x\ty\n", status: 400, code: "27", want: "CANNOT_PARSE"},
		{name: "a setting's name that is none is refused", params: url.Values{"a=1, readonly": {"0"}}, body: "SELECT 1", status: 400, code: "36", want: "setting"},
		{name: "GET changes nothing", method: "GET", params: url.Values{"query": {"CREATE TABLE x (a Int8) ENGINE = Memory"}}, status: 500, code: "164", want: "READONLY"},
		{name: "GET changes nothing, whatever the URL says", method: "GET", params: url.Values{"query": {"DROP TABLE other.kept"}, "readonly": {"0"}}, status: 500, code: "164", want: "READONLY"},
		{name: "two statements are refused", body: "SELECT 1; SELECT 2", status: 400, code: "62", want: "Multi-statements"},
		{name: "a file cannot be written", body: "SELECT 1 INTO /* x */ OUTFILE '/tmp/x'", status: 501, code: "48", want: "INTO OUTFILE"},
		{name: "a file cannot be inserted", body: "INSERT INTO other.kept FROM INFILE '/etc/passwd' FORMAT TSV", status: 501, code: "48", want: "FROM INFILE"},
		{name: "a file of the host cannot be read", body: "SELECT * FROM file('/etc/passwd', 'LineAsString')", status: 500, want: "ermission denied"},
		{name: "the environment of the host cannot be read", body: "SELECT * FROM file('/proc/1/environ', 'LineAsString')", status: 500, want: "ermission denied"},
		{name: "sessions are refused", params: url.Values{"session_id": {"x"}}, body: "SELECT 1", status: 501, code: "48", want: "session"},
		{name: "an empty query is refused", body: " ", status: 400, code: "62", want: "Empty query"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.method == "" {
				c.method = "POST"
			}
			if c.status == 0 {
				c.status = 200
			}
			r := do(t, request(t, c.method, base, c.params, c.body))
			code := r.header.Get("X-ClickHouse-Exception-Code")
			if r.status != c.status || c.code != "" && code != c.code {
				t.Fatalf("got %d, code %q: %s", r.status, code, r.body)
			}
			if c.status == 200 && r.body != c.want || !strings.Contains(r.body, c.want) {
				t.Errorf("got %q", r.body)
			}
			if c.status != 200 && (code == "" || !strings.HasPrefix(r.body, "Code: "+code+". ")) {
				t.Errorf("error is not as ClickHouse tells it: %q %q", code, r.body)
			}
		})
	}
	if r := do(t, request(t, "GET", base, nil, "")); r.body != "Ok.\n" {
		t.Errorf("GET / answers %q", r.body)
	}
	r := do(t, request(t, "POST", base, url.Values{"query_id": {"mine"}}, "SELECT 1 AS a FORMAT JSON"))
	if r.header.Get("X-ClickHouse-Query-Id") != "mine" || r.header.Get("X-ClickHouse-Format") != "JSON" || r.header.Get("X-ClickHouse-Timezone") == "" ||
		!strings.HasPrefix(r.header.Get("Content-Type"), "application/json") || !json.Valid([]byte(r.body)) || !json.Valid([]byte(r.header.Get("X-ClickHouse-Summary"))) {
		t.Errorf("headers of an answer: %v %s", r.header, r.body)
	}
}

func TestBigAnswers(t *testing.T) {
	t.Parallel()
	base := server(t)
	for _, c := range []struct{ name, query, first, last string }{
		{"a streamed one comes whole", "SELECT number FROM numbers(3000000)", "0\n", "2999999\n"},
		{"one with a head has one head", "SELECT number AS n FROM numbers(300000) FORMAT CSVWithNames", "\"n\"\n0\n", "299999\n"},
		{"JSON stays one document", "SELECT number AS n FROM numbers(300000) FORMAT JSONCompact", "{", "}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := sql(t, base, c.query)
			if !strings.HasPrefix(got, c.first) || !strings.HasSuffix(got, c.last) || strings.Count(got, `"n"`) > 1 {
				t.Errorf("got %.40q…", got)
			}
			if strings.HasPrefix(got, "{") && !json.Valid([]byte(got)) {
				t.Error("not JSON")
			}
		})
	}
	t.Run("an error in the middle is framed and cuts the answer", func(t *testing.T) {
		r := do(t, request(t, "POST", base, nil, "SELECT throwIf(number = 4000000) FROM numbers(5000000)"))
		if !strings.Contains(r.body, "\r\n__exception__\r\n"+r.header.Get("X-ClickHouse-Exception-Tag")+"\r\nCode: 395.") {
			t.Errorf("the end is %q", r.body[max(0, len(r.body)-300):])
		}
	})
	t.Run("one with a head, bigger than is good for memory, comes whole", func(t *testing.T) {
		got := sql(t, base, "SELECT repeat('x', 1000) AS s FROM numbers(100000) FORMAT JSON")
		if len(got) < 100_000_000 || !strings.HasSuffix(got, "}\n") {
			t.Errorf("got %d bytes", len(got))
		}
	})
	t.Run("one held back is bounded, and an error in it is a clean one", func(t *testing.T) {
		held := url.Values{"wait_end_of_query": {"1"}}
		r := do(t, request(t, "POST", base, held, "SELECT repeat('x', 1000) FROM numbers(400000)"))
		if r.header.Get("X-ClickHouse-Exception-Code") != "396" {
			t.Errorf("got %d bytes, %d %v", len(r.body), r.status, r.header)
		}
		r = do(t, request(t, "POST", base, held, "SELECT throwIf(number = 4000000) FROM numbers(5000000)"))
		if r.status != 500 || r.header.Get("X-ClickHouse-Exception-Code") != "395" {
			t.Errorf("got %d bytes, %d %v", len(r.body), r.status, r.header)
		}
	})
}

func TestCodings(t *testing.T) {
	t.Parallel()
	base := server(t)
	sql(t, base, "CREATE TABLE coded (s String) ENGINE = MergeTree ORDER BY s")
	var zs, gz, zl, br bytes.Buffer
	for _, w := range []io.WriteCloser{gzip.NewWriter(&gz), zlib.NewWriter(&zl), brotli.NewWriter(&br), func() io.WriteCloser { z, _ := zstd.NewWriter(&zs); return z }()} {
		_, _ = io.WriteString(w, "row\n")
		_ = w.Close()
	}
	want := 0
	for enc, b := range map[string]*bytes.Buffer{"gzip": &gz, "deflate": &zl, "br": &br, "zstd": &zs} {
		r := request(t, "POST", base, url.Values{"query": {"INSERT INTO coded FORMAT TSV"}}, b.String())
		r.Header.Set("Content-Encoding", enc)
		if got := do(t, r); got.status != 200 {
			t.Errorf("a body in %s: %d %s", enc, got.status, got.body)
		}
		want++
		r = request(t, "POST", base, nil, "SELECT number FROM numbers(100000)")
		r.Header.Set("Accept-Encoding", enc)
		got := do(t, r)
		var plain io.Reader
		var err error
		switch in := strings.NewReader(got.body); enc {
		case "gzip":
			plain, err = gzip.NewReader(in)
		case "deflate":
			plain, err = zlib.NewReader(in)
		case "br":
			plain = brotli.NewReader(in)
		case "zstd":
			plain, err = zstd.NewReader(in)
		}
		must(t, err)
		text, err := io.ReadAll(plain)
		must(t, err)
		if got.header.Get("Content-Encoding") != enc || !strings.HasSuffix(string(text), "\n99999\n") {
			t.Errorf("an answer in %s: %v, %d bytes", enc, got.header, len(text))
		}
	}
	for _, m := range []compress.Method{compress.LZ4, compress.ZSTD, compress.None} {
		w := compress.NewWriter(0, m)
		must(t, w.Compress([]byte("row\n")))
		body := string(w.Data)
		if got := do(t, request(t, "POST", base, url.Values{"query": {"INSERT INTO coded FORMAT TSV"}, "decompress": {"1"}}, body+body)); got.status != 200 {
			t.Errorf("ClickHouse blocks in %v: %d %s", m, got.status, got.body)
		}
		want += 2
		got := do(t, request(t, "POST", base, url.Values{"query": {"INSERT INTO coded FORMAT TSV"}, "decompress": {"1"}}, body[:len(body)-1]))
		if got.status != 400 || got.header.Get("X-ClickHouse-Exception-Code") != "271" {
			t.Errorf("a cut block is taken: %d %s", got.status, got.body)
		}
	}
	got := do(t, request(t, "POST", base, url.Values{"compress": {"1"}}, "SELECT 'x'"))
	b := make([]byte, 2)
	if _, err := io.ReadFull(compress.NewReader(strings.NewReader(got.body)), b); err != nil || string(b) != "x\n" {
		t.Errorf("compress=1 answers %q: %v", got.body, err)
	}
	if n := sql(t, base, "SELECT count() FROM coded"); n != fmt.Sprintln(want) {
		t.Errorf("%s rows are there, %d were sent", n, want)
	}
}

func TestQueriesRunInParallel(t *testing.T) {
	t.Parallel()
	base := server(t)
	began := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { sql(t, base, "SELECT sleep(1)") })
	}
	wg.Wait()
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("eight queries of a second each took %v", took)
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	base, _ := start(t, chdb.Config{Username: "tipstaff", Password: "s3cret:x"})
	ask := func(user, key string, params url.Values, basic bool) reply {
		r := request(t, "POST", base, params, "SELECT 1")
		if basic {
			r.SetBasicAuth(user, key)
		} else if user != "" {
			r.Header.Set("X-ClickHouse-User", user)
			r.Header.Set("X-ClickHouse-Key", key)
		}
		return do(t, r)
	}
	for _, c := range []struct {
		name   string
		got    reply
		status int
	}{
		{"basic auth is let in", ask("tipstaff", "s3cret:x", nil, true), 200},
		{"headers are let in", ask("tipstaff", "s3cret:x", nil, false), 200},
		{"parameters are let in", ask("", "", url.Values{"user": {"tipstaff"}, "password": {"s3cret:x"}}, false), 200},
		{"a wrong password is refused", ask("tipstaff", "nope", nil, true), 403},
		{"another user is refused", ask("default", "s3cret:x", nil, false), 403},
		{"no password is refused", ask("tipstaff", "", nil, true), 403},
		{"nobody is asked who they are", ask("", "", nil, false), 401},
	} {
		code := c.got.header.Get("X-ClickHouse-Exception-Code")
		if c.got.status != c.status || c.status != 200 && code != "516" {
			t.Errorf("%s: got %d, code %q, %s", c.name, c.got.status, code, c.got.body)
		}
	}
	ping := request(t, "GET", base, nil, "")
	ping.URL.Path = "/ping"
	if r := do(t, ping); r.body != "Ok.\n" {
		t.Errorf("/ping answers %d %q", r.status, r.body)
	}
}
