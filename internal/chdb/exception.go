package chdb

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// ClickHouse's error codes that this package gives itself; see
// src/Common/ErrorCodes.cpp in ClickHouse.
const (
	codeBadArguments   = 36
	codeNotImplemented = 48
	codeSyntaxError    = 62
	codeUnknownFormat  = 73
	codeTooLarge       = 229
	codeResultTooBig   = 396
	codeNetwork        = 210
	codeTooMany        = 202
	codeAuthFailed     = 516
	codeDecompress     = 271
	codeUnknown        = 1002
)

// exception is an error as ClickHouse tells it.
type exception struct {
	code int
	text string // as sent: "Code: 47. DB::Exception: …"
}

func (e *exception) Error() string { return e.text }

func refuse(code int, format string, args ...any) *exception {
	name := map[int]string{
		codeBadArguments: "BAD_ARGUMENTS", codeNotImplemented: "NOT_IMPLEMENTED", codeSyntaxError: "SYNTAX_ERROR",
		codeTooLarge: "QUERY_IS_TOO_LARGE", codeUnknownFormat: "UNKNOWN_FORMAT", codeResultTooBig: "TOO_MANY_ROWS_OR_BYTES", codeNetwork: "NETWORK_ERROR", codeTooMany: "TOO_MANY_SIMULTANEOUS_QUERIES",
		codeAuthFailed: "AUTHENTICATION_FAILED", codeDecompress: "CANNOT_DECOMPRESS", codeUnknown: "UNKNOWN_EXCEPTION",
	}[code]
	return &exception{code, fmt.Sprintf("Code: %d. DB::Exception: %s. (%s)", code, fmt.Sprintf(format, args...), name)}
}

var codeInText = regexp.MustCompile(`Code: (\d+)\.`)

// fromEngine reads the code out of the engine's own message.
func fromEngine(text string) *exception {
	text = strings.TrimSpace(text)
	if m := codeInText.FindStringSubmatch(text); m != nil {
		if code, err := strconv.Atoi(m[1]); err == nil {
			return &exception{code, text}
		}
	}
	return &exception{codeUnknown, fmt.Sprintf("Code: %d. DB::Exception: %s", codeUnknown, text)}
}

// status is the HTTP status that ClickHouse sends with a code
// (exceptionCodeToHTTPStatus in ClickHouse's src/Server/HTTP).
func (e *exception) status() int {
	switch e.code {
	case 194: // REQUIRED_PASSWORD
		return http.StatusUnauthorized
	case codeAuthFailed, 192, 193, 291, 497: // unknown user, wrong password, no access
		return http.StatusForbidden
	case 6, 8, 15, 25, 26, 27, 38, 41, 43, 44, 53, codeSyntaxError, 72, 89, 117, 167, 168, 321, 376, 427, 441, 457, codeDecompress, codeBadArguments:
		return http.StatusBadRequest
	case 46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 336:
		return http.StatusNotFound
	case 159: // TIMEOUT_EXCEEDED
		return http.StatusRequestTimeout
	case codeTooLarge:
		return http.StatusRequestEntityTooLarge
	case codeNotImplemented:
		return http.StatusNotImplemented
	case 209, 439, codeNetwork, codeTooMany:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// write sends e as the whole answer; for when nothing of one was sent yet.
func (e *exception) write(w http.ResponseWriter) {
	h := w.Header()
	h.Del("Content-Encoding")
	h.Del("Content-Length")
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.code))
	w.WriteHeader(e.status())
	_, _ = fmt.Fprintln(w, e.text) // the caller is gone if this fails
}
