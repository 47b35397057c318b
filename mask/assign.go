package mask

import "bytes"

// assignments adds what a text assigns to a name that is a credential's:
// password=…, "token": "…", --api-key …, Authorization: Bearer ….
func (r *rules) assignments(text []byte, where place, spans []span) []span {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '=', ':':
		case ' ':
			if i == 0 || !nameByte(text[i-1]) {
				continue
			}
		default:
			continue
		}
		from, to, quoted := nameBefore(text, i)
		if to-from < 3 || text[i] == ' ' && (quoted || text[from] != '-') || !r.credential(text[from:to]) {
			continue
		}
		sp, ok := valueAfter(text, i, atLineStart(text, from))
		if !ok || trivial(text[sp.from:sp.to]) || where == inProse && text[i] == ':' && !quoted && prose(text, sp) || pathLike(text[sp.from:sp.to]) {
			continue
		}
		spans = append(spans, sp)
		i = sp.to - 1
	}
	return spans
}

func nameByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '_' || b == '-' || b == '.'
}

// nameBefore gives the name that stands before the sign at i.
func nameBefore(text []byte, i int) (from, to int, quoted bool) {
	to = i
	for n := 0; to > 0 && (text[to-1] == ' ' || text[to-1] == '\t') && n < 8; n++ {
		to--
	}
	for to > 0 && (text[to-1] == '"' || text[to-1] == '\'' || text[to-1] == '`' || text[to-1] == ']') {
		to--
		quoted = true
	}
	for quoted && to > 0 && text[to-1] == '\\' {
		to--
	}
	from = to
	for from > 0 && nameByte(text[from-1]) && to-from < 128 {
		from--
	}
	return from, to, quoted
}

// atLineStart reports whether the name that begins at from is the first of its
// line, as in YAML, properties and files of variables.
func atLineStart(text []byte, from int) bool {
	for from > 0 {
		switch b := text[from-1]; b {
		case ' ', '\t', '"', '\'', '-':
			from--
		case '\n', '\r':
			return true
		default:
			return from >= 7 && string(text[from-7:from]) == "export "
		}
	}
	return true
}

// valueAfter gives the value that stands after the sign at i. Of an unquoted
// one at the beginning of a line the whole line is taken.
func valueAfter(text []byte, i int, line bool) (span, bool) {
	sign := text[i]
	at := i + 1
	for at < len(text) && (text[at] == '=' || text[at] == '>') && at-i <= 2 {
		at++
	}
	for n := 0; at < len(text) && (text[at] == ' ' || text[at] == '\t') && n < 64; n++ {
		at++
	}
	for _, scheme := range [...]string{"Bearer ", "Basic ", "Token ", "bearer ", "basic "} {
		if bytes.HasPrefix(text[at:], []byte(scheme)) {
			at += len(scheme)
			line = false
		}
	}
	slashes := at
	for at < len(text) && text[at] == '\\' {
		at++
	}
	if at < len(text) && (text[at] == '"' || text[at] == '\'' || text[at] == '`') {
		quote := text[at]
		at++
		end := at
		for end < len(text) && text[end] != quote && text[end] != '\n' {
			if text[end] == '\\' && slashes == at-1 {
				end++ // an escape within
			}
			end++
		}
		end = min(end, len(text))
		for end > at && text[end-1] == '\\' {
			end--
		}
		return span{at, end}, end > at
	}
	at = slashes
	stops := " \t\r\n,;&\"'`)}]<>"
	if line && sign != ' ' {
		stops = "\r\n"
	}
	end := bytes.IndexAny(text[at:], stops)
	if end < 0 {
		end = len(text) - at
	}
	end += at
	if line {
		if c := bytes.Index(text[at:end], []byte(" #")); c >= 0 {
			end = at + c
		}
		for end > at && (text[end-1] == ' ' || text[end-1] == '\t' || text[end-1] == ',' || text[end-1] == '"') {
			end--
		}
	}
	return span{at, end}, end > at && text[at] != '{' && text[at] != '['
}

// prose reports whether what follows a colon reads like a word of a sentence,
// as in "invalid token: expired", rather than like a credential.
func prose(text []byte, sp span) bool {
	v := text[sp.from:sp.to]
	if len(v) < 6 {
		return true
	}
	letters, upper := 0, 0
	for i, b := range v {
		switch {
		case 'a' <= b && b <= 'z':
			letters++
		case 'A' <= b && b <= 'Z':
			letters++
			if i > 0 {
				upper++
			}
		case b == '.' || b == '-' || b == '/' || b == '(' || b == ' ':
			letters++
		}
	}
	return letters == len(v) && upper == 0
}

// pathLike reports whether a value is a file's path, as credentials' files have.
func pathLike(v []byte) bool {
	if len(v) < 3 || v[0] != '/' {
		return false
	}
	for _, dir := range [...]string{"/var/", "/etc/", "/run/", "/tmp/", "/home/", "/opt/", "/usr/", "/mnt/", "/secrets/", "/vault/", "/root/", "/dev/", "/proc/"} {
		if bytes.HasPrefix(v, []byte(dir)) {
			return true
		}
	}
	return false
}
