package chdb

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
)

// onlyAuthenticated lets through callers with the configured name and password,
// given in any of ClickHouse's three ways. /ping stays open, as in ClickHouse.
func onlyAuthenticated(user, password string, next http.Handler) http.Handler {
	if user == "" {
		user = "default"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, key, given := credentials(r)
		if !given && password == "" {
			name = user // ClickHouse takes "default" for a caller who says nothing
		}
		if ok := same(name, user) & same(key, password); ok != 1 {
			ex := refuse(codeAuthFailed, "Authentication failed: password is incorrect, or there is no user with such name")
			if given {
				ex.write(w)
				return
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="ClickHouse server HTTP API"`)
			w.Header().Set("X-ClickHouse-Exception-Code", "516")
			http.Error(w, ex.text, http.StatusUnauthorized)
			return
		}
		r.Header.Del("Authorization")
		r.Header.Del("X-ClickHouse-Key")
		next.ServeHTTP(w, r)
	})
}

func credentials(r *http.Request) (user, password string, given bool) {
	if u := r.Header.Get("X-ClickHouse-User"); u != "" || r.Header.Get("X-ClickHouse-Key") != "" {
		return u, r.Header.Get("X-ClickHouse-Key"), true
	}
	if u, p, ok := r.BasicAuth(); ok {
		return u, p, true
	}
	q := r.URL.Query()
	if q.Has("user") || q.Has("password") {
		if u := q.Get("user"); u != "" {
			return u, q.Get("password"), true
		}
		return "default", q.Get("password"), true
	}
	return "", "", r.Header.Get("Authorization") != ""
}

// same compares in a time that tells nothing, lengths included.
func same(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}
