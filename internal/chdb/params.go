package chdb

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// params is what a request says beside its query.
type params struct {
	query      string
	database   string
	format     string // when the query names none
	queryID    string
	revision   uint64 // of Native answers
	compress   bool   // answer in ClickHouse's own compressed blocks
	decompress bool   // body in them
	method     string // of compress
	buffered   bool   // wait_end_of_query
	comment    string
	// acceptEncoding is the header: codings the client takes.
	acceptEncoding string
	set            []string // "name='value'"
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// maxRevision is above every revision there is; it only keeps out nonsense.
const maxRevision = 1 << 31

// parseParams reads the URL and headers. Keys that are not the interface's own
// are settings, as in ClickHouse.
func parseParams(u url.Values, r *http.Request) (*params, error) {
	p := &params{format: r.Header.Get("X-ClickHouse-Format"), database: r.Header.Get("X-ClickHouse-Database"),
		acceptEncoding: r.Header.Get("Accept-Encoding")}
	readonly := ""
	for key, values := range u {
		if len(values) == 0 {
			continue
		}
		v := values[len(values)-1]
		switch key {
		case "query":
			p.query = v
		case "database":
			p.database = v
		case "default_format":
			p.format = v
		case "query_id":
			p.queryID = v
		case "client_protocol_version":
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil || n > maxRevision {
				return nil, refuse(codeBadArguments, "client_protocol_version is not a number")
			}
			p.revision = n
		case "compress":
			p.compress = flag(v)
		case "decompress":
			p.decompress = flag(v)
		case "wait_end_of_query":
			p.buffered = flag(v)
		case "log_comment":
			p.comment = v
		case "readonly":
			readonly = v
		case "session_id":
			return nil, refuse(codeNotImplemented, "sessions are not served here: leave out session_id")
		case "user", "password", "quota_key", "buffer_size", "stacktrace", "session_timeout", "session_check",
			"enable_http_compression", "http_zlib_compression_level", "add_http_cors_header", "send_progress_in_http_headers",
			"http_headers_progress_interval_ms", "http_write_exception_in_output_format":
			// the server's own; without effect here
		default:
			if err := p.addSetting(key, v); err != nil {
				return nil, err
			}
		}
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		if readonly != "1" {
			readonly = "2" // as ClickHouse: a GET changes nothing
		}
	}
	if readonly != "" {
		p.set = append(p.set, "readonly="+quote(readonly))
	}
	if p.format == "" {
		p.format = "TabSeparated"
	}
	if !identifier.MatchString(p.format) {
		return nil, refuse(codeUnknownFormat, "Unknown format")
	}
	return p, nil
}

func (p *params) addSetting(key, v string) error {
	if !identifier.MatchString(key) {
		return refuse(codeBadArguments, "URL parameter with a name that is no setting's")
	}
	if strings.HasSuffix(key, "_structure") { // of an external table; no setting ends so
		return refuse(codeNotImplemented, "external tables are not served here")
	}
	if key == "network_compression_method" {
		p.method = v
	}
	p.set = append(p.set, key+"="+quote(v))
	return nil
}

func flag(v string) bool { return v == "1" || strings.EqualFold(v, "true") }

// contentType is the media type that ClickHouse announces for a format.
func contentType(format string) string {
	switch f := strings.ToLower(format); {
	case f == "json", strings.HasPrefix(f, "jsoncompact") && !strings.Contains(f, "eachrow"), f == "jsonstrings", f == "jsoncolumns":
		return "application/json; charset=UTF-8"
	case strings.Contains(f, "eachrow"):
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(f, "csv"):
		return "text/csv; charset=UTF-8; header=" + header(f)
	case strings.HasPrefix(f, "tsv"), strings.HasPrefix(f, "tabseparated"):
		return "text/tab-separated-values; charset=UTF-8"
	case f == "native", strings.HasPrefix(f, "rowbinary"), f == "parquet", f == "orc", strings.HasPrefix(f, "arrow"), f == "avro":
		return "application/octet-stream"
	case f == "xml":
		return "application/xml; charset=UTF-8"
	}
	return "text/plain; charset=UTF-8"
}

func header(format string) string {
	if strings.Contains(format, "withnames") {
		return "present"
	}
	return "absent"
}

// streamable formats have neither head nor foot, so that the engine's chunks
// (each a whole document) can be sent one after the other.
func streamable(format string) bool {
	switch strings.ToLower(format) {
	case "tabseparated", "tsv", "tabseparatedraw", "tsvraw", "raw", "csv", "native", "rowbinary", "lineasstring", "rawblob",
		"jsoneachrow", "ndjson", "jsonlines", "jsonstringseachrow", "jsoncompacteachrow", "jsoncompactstringseachrow", "tskv", "msgpack":
		return true
	}
	return false
}
