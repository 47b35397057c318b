package bench

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/mask"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

func masker(tb testing.TB) *mask.Masker {
	tb.Helper()
	m, err := mask.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// podTable is the Table of 1,000 pods, as kubectl get asks for it.
func podTable(tb testing.TB) []byte {
	tb.Helper()
	table := []byte(`{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"1"},"columnDefinitions":[{"name":"Name","type":"string","format":"name","description":"Name must be unique within a namespace.","priority":0},{"name":"Status","type":"string","format":"","description":"The aggregate status of the containers in this pod.","priority":0}],"rows":[`)
	for i := range 1000 {
		var pod struct {
			Metadata json.RawMessage `json:"metadata"`
		}
		if err := json.Unmarshal([]byte("{"+podJSON(i, false)+"}"), &pod); err != nil {
			tb.Fatal(err)
		}
		if i > 0 {
			table = append(table, ',')
		}
		table = fmt.Appendf(table, `{"cells":["web-%d","1/1","Running",0,"3d4h","10.1.%d.%d","node-%d","<none>","<none>"],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":%s}}`, i, i/250, i%250, i%100, pod.Metadata)
	}
	return append(table, "]}\n"...)
}

func BenchmarkMask(b *testing.B) {
	bodies := proxyBodies()
	for kind, in := range map[string][]byte{"SecretList": bodies[largeWorst], "PodList": bodies[largeTypical], "PodTable": podTable(b)} {
		s := masker(b).Scope("run")
		ref := mask.Ref{Resource: "pods"}
		if kind == "SecretList" {
			ref.Resource = "secrets"
		}
		var out bytes.Buffer
		if err := s.JSONOf(ref, &out, bytes.NewReader(in)); err != nil {
			b.Fatal(err)
		}
		if !json.Valid(out.Bytes()) || bytes.Contains(out.Bytes(), []byte(proxyPassword)) || bytes.Contains(out.Bytes(), []byte(base64.StdEncoding.EncodeToString([]byte(proxyPassword))[:16])) {
			b.Fatal("the value passed")
		}
		b.Run(kind+"/limit=token-copy", func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				d, e := jsontext.NewDecoder(bytes.NewReader(in)), jsontext.NewEncoder(io.Discard)
				for {
					tok, err := d.ReadToken()
					if errors.Is(err, io.EOF) {
						break
					}
					if err == nil {
						err = e.WriteToken(tok)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
		b.Run(kind+"/tipstaff", func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				if err := s.JSONOf(ref, io.Discard, bytes.NewReader(in)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// nobody opens no approvals and knows no revocations: the allow path needs neither.
type nobody struct{ tb testing.TB }

func (n nobody) Ensure(context.Context, v1alpha1.ApprovalSpec, v1alpha1.Try, func(*v1alpha1.ApprovalSpec) error) (*v1alpha1.Approval, error) {
	n.tb.Error("an approval was opened on the allow path")
	return nil, errors.New("not here")
}
func (n nobody) Wait(context.Context, string) (*v1alpha1.Approval, error) {
	return nil, errors.New("not here")
}
func (n nobody) Use(context.Context, string, v1alpha1.Try) (*v1alpha1.Approval, error) {
	return nil, errors.New("not here")
}
func (n nobody) Revoked(v1alpha1.Agent) (string, bool, error) { return "", false, nil }

func review() []byte {
	env := strings.Repeat(`{"name":"SETTING","value":"some value or other"},`, 80)
	obj := func(image string) string {
		return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"prod","uid":"u"},"spec":{"replicas":3,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"` + image + `","env":[` + env + `{"name":"LAST","value":"x"}]}]}}}}`
	}
	return []byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"0d0e","kind":{"group":"apps","version":"v1","kind":"Deployment"},"resource":{"group":"apps","version":"v1","resource":"deployments"},"name":"web","namespace":"prod","operation":"UPDATE","userInfo":{"username":"agent:demo:bot","groups":["tipstaff:agents","tipstaff:profile:default"],"extra":{"tipstaff.dev/issuer":["demo"],"tipstaff.dev/run":["r1"]}},"object":` + obj("shop:2") + `,"oldObject":` + obj("shop:1") + `,"dryRun":false,"options":{"kind":"UpdateOptions","apiVersion":"meta.k8s.io/v1"}}}`)
}

func BenchmarkAdmission(b *testing.B) {
	in := review()
	wh, err := webhook.New(webhook.Config{}, nobody{b}, nobody{b}, nil, nil, masker(b), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	limit := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var rev admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&rev); err != nil {
			b.Error(err)
		}
		_ = json.NewEncoder(w).Encode(admissionv1.AdmissionReview{TypeMeta: rev.TypeMeta, Response: &admissionv1.AdmissionResponse{UID: rev.Request.UID, Allowed: true}})
	})
	for _, h := range []struct {
		name string
		h    http.Handler
	}{{"limit=empty-webhook", limit}, {"tipstaff", wh.Handler()}} {
		b.Run("DeploymentUpdate/"+h.name, func(b *testing.B) {
			for b.Loop() {
				req := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/changes?timeout=10s", bytes.NewReader(in))
				req.Header.Set("Content-Type", "application/json")
				rec := httptest.NewRecorder()
				h.h.ServeHTTP(rec, req)
				var out admissionv1.AdmissionReview
				if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || out.Response == nil || !out.Response.Allowed {
					b.Fatalf("not allowed: %s", rec.Body)
				}
			}
		})
	}
}
