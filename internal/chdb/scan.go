package chdb

import "strings"

// statement is what the HTTP interface must know of a query's text. The engine
// parses; this only finds its parts.
type statement struct {
	keyword string // first word, upper case
	format  string // of its FORMAT clause, or "Values" for INSERT … VALUES; else empty
	// For an INSERT that brings data: data starts at dataAt; the FORMAT or
	// VALUES word stands at formatAt; FROM INFILE belongs before infileAt.
	hasData                    bool
	dataAt, formatAt, infileAt int
	end                        int  // where the last token before a closing ; ends
	totals                     bool // WITH TOTALS: the engine's stream leaves them out
	several                    bool // more than one statement
	files                      bool // INTO OUTFILE or FROM INFILE
}

type token struct {
	text       string // words upper case, punctuation as is, empty for strings and quoted names
	start, end int
	depth      int
}

// lexer walks over SQL by ClickHouse's lexical rules: strings with backslash
// and doubled quotes, quoted names, heredocs, and three kinds of comments.
type lexer struct {
	s     string
	at    int
	depth int
}

func wordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func (l *lexer) skipTo(end string) {
	if i := strings.Index(l.s[l.at:], end); i >= 0 {
		l.at += i + len(end)
		return
	}
	l.at = len(l.s)
}

func (l *lexer) skipQuoted(q byte) {
	for l.at++; l.at < len(l.s); l.at++ {
		switch l.s[l.at] {
		case '\\':
			l.at++
		case q:
			l.at++
			if l.at < len(l.s) && l.s[l.at] == q {
				continue
			}
			return
		}
	}
	l.at = len(l.s)
}

// heredoc returns the tag of $tag$ at the place, or empty.
func (l *lexer) heredoc() string {
	for i := l.at + 1; i < len(l.s); i++ {
		if l.s[i] == '$' {
			return l.s[l.at : i+1]
		}
		if !wordByte(l.s[i]) {
			return ""
		}
	}
	return ""
}

func (l *lexer) next() (token, bool) {
	for l.at < len(l.s) {
		c, rest := l.s[l.at], l.s[l.at:]
		start := l.at
		switch {
		case c == ' ' || c >= '\t' && c <= '\r' || c == 0:
			l.at++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "#!"), strings.HasPrefix(rest, "# "):
			if i := strings.IndexByte(rest, '\n'); i >= 0 {
				l.at += i + 1
			} else {
				l.at = len(l.s)
			}
		case strings.HasPrefix(rest, "/*"):
			l.at += 2
			l.skipTo("*/")
		case c == '\'' || c == '"' || c == '`':
			l.skipQuoted(c)
			return token{"", start, l.at, l.depth}, true
		case c == '$' && l.heredoc() != "":
			tag := l.heredoc()
			l.at += len(tag)
			l.skipTo(tag)
			return token{"", start, l.at, l.depth}, true
		case wordByte(c):
			for l.at < len(l.s) && wordByte(l.s[l.at]) {
				l.at++
			}
			return token{strings.ToUpper(l.s[start:l.at]), start, l.at, l.depth}, true
		default:
			l.at++
			switch c {
			case '(', '[', '{':
				l.depth++
			case ')', ']', '}':
				l.depth = max(0, l.depth-1)
			}
			return token{l.s[start:l.at], start, l.at, l.depth}, true
		}
	}
	return token{}, false
}

func isWord(t token) bool { return t.text != "" && wordByte(t.text[0]) }

// scan finds the parts of s.
func scan(s string) statement {
	l := &lexer{s: s}
	var st statement
	var before, prev token // the two tokens before t
	ended, settingsAt, selects := false, -1, false
	for t, ok := l.next(); ok; t, ok = l.next() {
		if ended {
			st.several = true
			break
		}
		switch {
		case t.text == ";" && t.depth == 0:
			ended = true
			continue
		case st.keyword == "" && isWord(t):
			st.keyword = t.text
		case prev.text == "INTO" && t.text == "OUTFILE", prev.text == "FROM" && t.text == "INFILE":
			st.files = true
		case prev.text == "WITH" && t.text == "TOTALS":
			st.totals = true
		case t.depth > 0:
		case t.text == "SETTINGS" && settingsAt < 0:
			settingsAt = t.start
		case t.text == "SELECT" || t.text == "WITH":
			selects = true
		case st.keyword == "INSERT" && !selects && !nameFollows(prev.text) && t.text == "VALUES":
			st.insertData(s, "Values", t.start, t.end, settingsAt)
			return st
		case prev.text == "FORMAT" && isWord(t) && !nameFollows(before.text):
			name := s[t.start:t.end]
			if st.keyword == "INSERT" && !selects {
				st.insertData(s, name, prev.start, afterFormat(s, t.end), settingsAt)
				return st
			}
			st.format, st.formatAt = name, prev.start
		}
		st.end = t.end
		before, prev = prev, t
	}
	return st
}

// nameFollows tells that the word after this one is a table's name, whatever it looks like.
func nameFollows(word string) bool {
	return word == "INTO" || word == "TABLE" || word == "." || word == "AS" || word == ","
}

func (st *statement) insertData(s, format string, formatAt, dataAt, settingsAt int) {
	st.hasData, st.format, st.formatAt, st.dataAt, st.infileAt = true, format, formatAt, min(dataAt, len(s)), formatAt
	if settingsAt >= 0 {
		st.infileAt = settingsAt
	}
}

// afterFormat skips what ClickHouse skips between a format's name and its data:
// blanks and one line end.
func afterFormat(s string, at int) int {
	for at < len(s) && (s[at] == ' ' || s[at] == '\t' || s[at] == '\f') {
		at++
	}
	if at < len(s) && s[at] == '\r' {
		at++
	}
	if at < len(s) && s[at] == '\n' {
		at++
	}
	return at
}

// fromFile rewrites an INSERT that brings data to take it from a file instead.
// The engine cuts binary data that stands in the query's text at a newline.
func (st *statement) fromFile(s, path string) string {
	return s[:st.infileAt] + " FROM INFILE " + quote(path) + " COMPRESSION 'none' " + s[st.infileAt:st.formatAt] + " FORMAT " + st.format
}

// intoFile rewrites a SELECT to leave its answer in a file.
func (st *statement) intoFile(s, path, format string) string {
	into := " INTO OUTFILE " + quote(path) + " COMPRESSION 'none' "
	if st.format != "" {
		return s[:st.formatAt] + into + s[st.formatAt:st.end]
	}
	return s[:st.end] + into + "FORMAT " + format
}

// quote makes a SQL string.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\x00", `\0`).Replace(s) + "'"
}

// quoteName makes a SQL identifier.
func quoteName(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`", "\x00", `\0`).Replace(s) + "`"
}
