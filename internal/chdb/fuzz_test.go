package chdb

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

func TestScan(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sql, format, data, file string
		several, files                bool
	}{
		{name: "FORMAT at the end", sql: "SELECT 1 FORMAT JSON", format: "JSON"},
		{name: "FORMAT before SETTINGS and a semicolon", sql: "select 1 format JSON settings a=1 ; -- x", format: "JSON"},
		{name: "FORMAT in a string, a name, a comment is none", sql: "SELECT 'a FORMAT b', `x FORMAT y` /* FORMAT z */"},
		{name: "a function called format is none", sql: "SELECT format('{}', 1)"},
		{name: "data after one line end", sql: "INSERT INTO t FORMAT TSV\n\n1", format: "TSV", data: "\n1", file: "INSERT INTO t  FROM INFILE 'f' COMPRESSION 'none'  FORMAT TSV"},
		{name: "data after VALUES", sql: "INSERT INTO t (a) values (1); DROP TABLE t", format: "Values", data: " (1); DROP TABLE t", file: "INSERT INTO t (a)  FROM INFILE 'f' COMPRESSION 'none'  FORMAT Values"},
		{name: "FROM INFILE goes before SETTINGS", sql: "INSERT INTO t SETTINGS a=1 FORMAT CSV 1", format: "CSV", data: "1", file: "INSERT INTO t  FROM INFILE 'f' COMPRESSION 'none' SETTINGS a=1  FORMAT CSV"},
		{name: "a table may be called values", sql: "INSERT INTO values FORMAT CSV 1", format: "CSV", data: "1", file: "INSERT INTO values  FROM INFILE 'f' COMPRESSION 'none'  FORMAT CSV"},
		{name: "INSERT SELECT has no data", sql: "INSERT INTO t SELECT 1 FORMAT Null", format: "Null"},
		{name: "two statements", sql: "SELECT 1; SELECT 2", several: true},
		{name: "a semicolon in a string, a heredoc", sql: "SELECT ';', 'it''s;', 'a\\';', $x$;$x$;"},
		{name: "OUTFILE", sql: "SELECT 1 into -- x\n outfile 'x'", files: true},
		{name: "INFILE", sql: "INSERT INTO t FROM INFILE 'x' FORMAT TSV", format: "TSV", files: true, file: "INSERT INTO t FROM INFILE 'x'  FROM INFILE 'f' COMPRESSION 'none'  FORMAT TSV"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := scan(c.sql)
			data, file := "", ""
			if st.hasData {
				data, file = c.sql[st.dataAt:], st.fromFile(c.sql, "f")
			}
			if st.format != c.format || data != c.data || file != c.file || st.several != c.several || st.files != c.files {
				t.Errorf("got %+v, data %q, file %q", st, data, file)
			}
		})
	}
}

func FuzzScan(f *testing.F) {
	for _, s := range []string{
		"SELECT 1 FORMAT JSON;", "INSERT INTO t (a, b) SETTINGS x='y' FORMAT Native \x01\x02\n", "insert into `a``b` values (1)", "/* SELECT", "'", "$x$",
		"WITH 1 AS x SELECT x FROM (SELECT 'FORMAT')", "INSERT INTO t FORMAT", "FORMAT FORMAT FORMAT", "SELECT 1;;", "INSERT VALUES FORMAT a b", "-- \n#!x\n# y",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		st := scan(s)
		if st.hasData {
			if st.infileAt > st.formatAt || st.formatAt > st.dataAt || st.dataAt > len(s) {
				t.Fatalf("parts out of order in %q: %+v", s, st)
			}
			if file := st.fromFile(s, "f"); !strings.Contains(file, "FROM INFILE 'f'") {
				t.Errorf("rewritten to %q", file)
			}
			return
		}
		if st.end > len(s) || st.formatAt > st.end {
			t.Fatalf("parts out of order in %q: %+v", s, st)
		}
		if !st.several && st.end > 0 {
			_ = st.intoFile(s, "f", "CSV")
			if again := scan(s[:st.end]); again.several || again.format != st.format {
				t.Errorf("%q without its end is %+v, was %+v", s, again, st)
			}
		}
	})
}

var oneSetting = regexp.MustCompile(`(?s)^[A-Za-z_][A-Za-z0-9_.]*='([^'\\]|\\.)*'$`)

func FuzzParams(f *testing.F) {
	for _, s := range []string{"query=SELECT+1&max_threads=1", "param_a='%5C'&b=%00", "client_protocol_version=54460&compress=1", "a%27=b", "readonly=0&session_id=x", ";=&%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, _ := url.ParseQuery(s)
		p, err := parseParams(u, httptest.NewRequest(http.MethodGet, "/", nil))
		if err != nil {
			return
		}
		for _, set := range p.set {
			if !oneSetting.MatchString(set) {
				t.Errorf("setting breaks out: %q", set)
			}
		}
		if last := p.set[len(p.set)-1]; last != "readonly='2'" && last != "readonly='1'" {
			t.Errorf("GET is not readonly: %q", p.set)
		}
	})
}

// block is one Native block with a column of each kind of serialization.
func block(t testing.TB, revision uint64, rows int) []byte {
	b := proto.NewBlock()
	b.ServerContext = &column.ServerContext{Timezone: time.UTC}
	for name, typ := range map[string]column.Type{"s": "LowCardinality(String)"} {
		if err := b.AddColumn(name, typ); err != nil {
			t.Fatal(err)
		}
	}
	for _, typ := range []column.Type{"Nullable(Int64)", "Array(Array(String))", "Map(String, LowCardinality(String))", "DateTime64(3, 'UTC')"} {
		if err := b.AddColumn("c "+string(typ), typ); err != nil {
			t.Fatal(err)
		}
	}
	for i := range rows {
		if err := b.Append("a", int64(i), [][]string{{"x\n"}, {}}, map[string]string{"k": "v"}, time.Unix(int64(i), 0)); err != nil {
			t.Fatal(err)
		}
	}
	var buf chproto.Buffer
	if err := b.Encode(&buf, revision); err != nil {
		t.Fatal(err)
	}
	return buf.Buf
}

func TestReencodeGivesWhatClickhouseGoEncodes(t *testing.T) {
	t.Parallel()
	for _, revision := range []uint64{0, 1, 54405, 54454, 54460} {
		src := append(block(t, 0, 3), block(t, 0, 70_000)...)
		want := append(block(t, revision, 3), block(t, revision, 70_000)...)
		got, err := reencode(src, revision)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("revision %d: %d bytes, wanted %d, error %v", revision, len(got), len(want), err)
		}
	}
}

// The blocks are well formed, or cut: they come from the engine, and
// clickhouse-go's decoders allocate what a false array offset claims.
func FuzzReencode(f *testing.F) {
	f.Add(uint8(3), uint32(54460), uint16(0))
	f.Add(uint8(1), uint32(1), uint16(7))
	f.Add(uint8(0), uint32(54454), uint16(1))
	f.Fuzz(func(t *testing.T, rows uint8, revision uint32, cut uint16) {
		whole := block(t, 0, int(rows))
		src := whole[:len(whole)-int(cut)%len(whole)]
		out, err := reencode(src, uint64(revision))
		if len(src) < len(whole) {
			if revision > 0 && (err == nil || out != nil) {
				t.Errorf("a cut block gives %d bytes, error %v", len(out), err)
			}
			return
		}
		if err != nil || !bytes.Equal(out, block(t, uint64(revision), int(rows))) {
			t.Errorf("%d rows at revision %d: %d bytes, error %v", rows, revision, len(out), err)
		}
	})
}

func TestTypesThatDoNotCloseAreRefused(t *testing.T) {
	t.Parallel()
	for typ, good := range map[string]bool{
		"Enum8('(' = 1, 'b\\')' = 2)": true, "Map(String, Array(UInt8))": true, "Map(String, LowCardinality(String)t": false,
		"Array)": false, "(": false, strings.Repeat("Array(", 100) + strings.Repeat(")", 100): false,
	} {
		if err := checkType(typ); (err == nil) != good {
			t.Errorf("%.40q: %v", typ, err)
		}
	}
}
