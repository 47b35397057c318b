package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	constants "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// webSocket begins an exec over a WebSocket whose frames the test makes itself.
func (s *stage) webSocket(t *testing.T, protocol string) (send func(h ws.Header, data string), r *bufio.Reader) {
	t.Helper()
	at, err := url.Parse(s.srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", at.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, _ = fmt.Fprintf(conn, "GET /api/v1/namespaces/a/pods/p/exec?command=sh&stdin=true&stdout=true&stderr=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", protocol)
	r = bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%+v %v", resp, err)
	}
	return func(h ws.Header, data string) {
		h.Masked, h.Mask, h.Length = true, [4]byte{1, 2, 3, 4}, int64(len(data))
		var b bytes.Buffer
		if err := ws.WriteHeader(&b, h); err != nil {
			t.Error(err)
		}
		masked := []byte(data)
		ws.Cipher(masked, h.Mask, 0)
		_, _ = conn.Write(append(b.Bytes(), masked...)) // the session may have ended
	}, r
}

// The API server takes each frame for a message, with a channel of its own: what
// is recorded as one channel's would be another's there.
func TestWhatAClientSendsInFragmentsReachesNobody(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{constants.StreamProtocolV5Name, constants.StreamProtocolV4Name} {
		for name, c := range map[string]struct {
			frames []ws.Header
			says   string
		}{
			"stdin behind another channel's beginning": {[]ws.Header{{OpCode: ws.OpBinary}, {Fin: true, OpCode: ws.OpContinuation}}, "in several frames"},
			"an end without a beginning":               {[]ws.Header{{Fin: true, OpCode: ws.OpContinuation}}, "in several frames"},
			"bits that nobody agreed on":               {[]ws.Header{{Fin: true, Rsv: ws.Rsv(true, false, false), OpCode: ws.OpBinary}}, "can't be read"},
		} {
			for _, recorded := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %s, recorded %t", name, protocol, recorded), func(t *testing.T) {
					t.Parallel()
					got := make(chan string, 1)
					s := stageFor(t, apiServer(t, func(c container) int {
						_, _ = io.WriteString(c.stdout, "begun\n")
						b, _ := io.ReadAll(c.stdin) // to its end
						got <- string(b)
						return 0
					}))
					s.p.unrecorded = !recorded
					send, r := s.webSocket(t, protocol)
					for begun := ""; begun != "\x01begun\n"; {
						f, err := ws.ReadFrame(r)
						if err != nil {
							t.Fatal(err)
						}
						begun = string(f.Payload)
					}
					for i, h := range c.frames {
						send(h, []string{"\x07", "\x00rm -rf\n"}[min(i+2-len(c.frames), 1)])
					}
					all, _ := io.ReadAll(r) // cut off, where the proxy closes first
					if told := channelOf(t, all, channelError); !strings.Contains(told, c.says) {
						t.Errorf("the client was told %q", told)
					}
					if v := <-got; v != "" {
						t.Errorf("the command read %q", v)
					}
					idle(t, s.p, 0)
				})
			}
		}
	}
}

// TestI9_AfterACutOnlyTheLastWordsGoOut, whatever the masker still holds.
func TestI9_AfterACutOnlyTheLastWordsGoOut(t *testing.T) {
	t.Parallel()
	for name, speakerOf := range map[string]func(*testing.T) speaker{
		"WebSocket": func(*testing.T) speaker { return webSocketSpeaker() }, "SPDY": spdySpeaker,
	} {
		for _, wait := range []time.Duration{0, 10 * quiet} {
			t.Run(fmt.Sprintf("%s, its end comes after %s", name, wait), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					m, err := mask.New(bytes.Repeat([]byte{1}, 32))
					if err != nil {
						t.Fatal(err)
					}
					is, kept := speakerOf(t), newShelf()
					server := &talk{says: make(chan []byte), listens: make(chan struct{}), hears: make(chan []byte, 100)}
					ctx, cancel := context.WithCancelCause(t.Context())
					client := is.tunnel(ctx, t, server, m.Scope("run"), uncut(fuzzTape(kept)))
					if is.open != nil {
						_, _ = client.Write(is.open)
						synctest.Wait() // until it is known which stream carries what
					}
					<-server.listens
					server.says <- is.output("printed before ")
					<-server.listens // and what came is held back
					cancel(&cut{apierrors.NewUnauthorized("it went astray")})
					got := make(chan string, 1)
					go func() {
						b, _ := io.ReadAll(client)
						got <- string(b)
					}()
					<-time.After(wait) // of the bubble: no time passes
					close(server.says)
					if b := <-got; !strings.Contains(b, "it went astray") || strings.Contains(b, "printed before") {
						t.Errorf("after the cut came %q", b)
					}
					if b := kept.text(recording.Output); wait == 0 && b != "" {
						t.Errorf("what nobody got is recorded: %q", b)
					}
					_ = client.Close()
				})
			})
		}
	}
}

// screen can be written to while it is read.
type screen struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// untold are API servers that print and end without saying how the command
// ended, by how they do. v5 is a translator's, which would say something.
func untold(dialect string) map[string]http.Handler {
	const printed = "a " + planted + " last hun"
	if dialect == "SPDY" {
		over := func(end func(container)) http.Handler {
			return nodeOf(func(c container) int {
				_, _ = io.WriteString(c.stdout, printed)
				end(c)
				return 0
			})
		}
		return map[string]http.Handler{
			"it closes":                over(func(c container) { c.die() }),
			"its connection breaks":    over(func(c container) { _ = c.conn.Close() }),
			"it ends the error stream": over(func(c container) { _ = c.status.Close(); c.die() }),
		}
	}
	over := func(end []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, _, err := ws.HTTPUpgrader{Protocol: func(string) bool { return true }}.Upgrade(r, w)
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			for _, message := range []string{"\x01", "\x03", "\x01" + printed} {
				_ = ws.WriteFrame(conn, ws.NewBinaryFrame([]byte(message)))
			}
			_, _ = conn.Write(end)
		})
	}
	return map[string]http.Handler{
		"it closes":             over(ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))),
		"its connection breaks": over(nil),
		"in the midst of more":  over([]byte("\x82\x10\x01more")),
		"what can't be read":    over([]byte("\xf2\x00")),
	}
}

// client-go takes an error stream that ends without a word for a success.
func TestACommandThatDidNotTellHowItEndedIsNoSuccess(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		for way, server := range untold(dialect) {
			for _, recorded := range []bool{true, false} {
				for _, verb := range []string{"exec", "attach"} {
					t.Run(fmt.Sprintf("%s, %s, recorded %t", way, verb, recorded), func(t *testing.T) {
						t.Parallel()
						s := stageFor(t, server)
						s.p.unrecorded = !recorded
						stdout := &screen{}
						o := remotecommand.StreamOptions{Stdout: stdout}
						ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
						defer cancel()
						err := s.executor(t, dialect, verb, o).StreamWithContext(ctx, o)
						if err == nil || !strings.Contains(err.Error(), "before the command told how it ended") {
							t.Errorf("the client was told %v", err)
						}
						if got := stdout.String(); got != "a "+hidden+" last hun" {
							t.Errorf("it printed %q", got)
						}
						idle(t, s.p, 0)
						if recorded {
							if why := s.shelf.ended(t); why != "the connection ended before the command told how it ended" {
								t.Errorf("it ended because %q", why)
							}
						}
					})
				}
			}
		}
	})
}

// Before its fourth version the protocol has no Status: a command that succeeds
// says nothing, and what is said is a failure.
func TestASuccessOfAnOldVersionStaysSilent(t *testing.T) {
	t.Parallel()
	s := stageFor(t, apiServer(t, func(c container) int {
		_, _ = io.WriteString(c.stdout, "done")
		return 0
	}))
	at, err := url.Parse(s.srv.URL + "/api/v1/namespaces/a/pods/p/exec?command=x&stdout=true")
	if err != nil {
		t.Fatal(err)
	}
	rt, up, err := spdy.RoundTripperFor(&rest.Config{Host: s.srv.URL, BearerToken: "good", TLSClientConfig: rest.TLSClientConfig{CAData: caOf(s.srv)}})
	if err != nil {
		t.Fatal(err)
	}
	e, err := remotecommand.NewSPDYExecutorForProtocols(rt, up, "POST", at, constants.StreamProtocolV3Name)
	if err != nil {
		t.Fatal(err)
	}
	stdout := &screen{}
	if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: stdout}); err != nil || stdout.String() != "done" {
		t.Errorf("%q: %v", stdout, err)
	}
}

// Nobody else closes the connection to the API server then.
func TestASessionWhoseClientCannotBeTakenOverEnds(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]http.Header{
		"WebSocket": {"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {channelPrefix}},
		"SPDY":      {"Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {channelPrefix}},
	} {
		for _, verb := range []string{"exec", "portforward"} {
			t.Run(verb+" over "+name, func(t *testing.T) {
				t.Parallel()
				gone := make(chan struct{})
				p, _ := before(t, func(w http.ResponseWriter, _ *http.Request) {
					defer close(gone)
					switched(t, w, header, "", func(sent io.Reader, _ io.Writer) { _, _ = io.Copy(io.Discard, sent) }) // until the proxy goes
				}, twoTokens{})
				r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/namespaces/a/pods/p/"+verb+"?command=x", nil)
				r.Header = header.Clone()
				r.Header.Set("Connection", "Upgrade")
				r.Header.Set("Authorization", "Bearer good")
				w := httptest.NewRecorder() // can't be taken over
				p.Handler().ServeHTTP(w, r)
				if w.Code != http.StatusServiceUnavailable {
					t.Errorf("%d %s", w.Code, w.Body)
				}
				<-gone
			})
		}
	}
}

// A timer's goroutine is not the server's: a panic in it ended every role.
func TestAPanicWhileAPromptIsPassedOnEndsItsOutputAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := mask.New(bytes.Repeat([]byte{1}, 32))
		if err != nil {
			t.Fatal(err)
		}
		o := newOutput(new(sync.Mutex), m.Scope("run"), func([]byte) error { panic("a bug") })
		if err := o.write([]byte("Continue? ")); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * quiet) // of the bubble: no time passes
		synctest.Wait()
		if err := o.write([]byte("y")); err == nil {
			t.Error("more is written")
		}
		if err := o.drain(); err == nil {
			t.Error("the rest is passed on")
		}
	})
}
