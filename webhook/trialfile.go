package webhook

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	admissionv1 "k8s.io/api/admission/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

// maxReviewFileBytes bounds a file of reviews; one review in it is bounded as
// the webhook bounds it.
const maxReviewFileBytes = 256 << 20

// notAnAgent says why a request of a person is not judged.
const notAnAgent = "not an agent: not asked"

// ReadReviews reads AdmissionReviews in JSON or YAML: one, many behind each
// other, or a List. What can't be read is an error that is ErrUnreadable and
// quotes nothing of it; where it is told where the next document starts, that one follows.
func ReadReviews(in io.Reader, source string, agents *clusteragents.Config) iter.Seq2[TrialRequest, error] {
	return func(yield func(TrialRequest, error) bool) {
		n := 0
		for doc, err := range documents(in) {
			n++
			if err == nil {
				var more bool
				if more, err = reviewsIn(doc, func(req *admissionv1.AdmissionRequest, err error) bool {
					if err != nil {
						return yield(TrialRequest{}, unreadable(source, n, err))
					}
					return yield(trialOf(req, source, agents), nil)
				}); err == nil {
					if !more {
						return
					}
					continue
				}
			}
			if !yield(TrialRequest{}, unreadable(source, n, err)) {
				return
			}
		}
	}
}

func unreadable(source string, document int, err error) error {
	return fmt.Errorf("%s, document %d: %w: %w", source, document, ErrUnreadable, err)
}

func trialOf(req *admissionv1.AdmissionRequest, source string, agents *clusteragents.Config) TrialRequest {
	extra := make(map[string][]string, len(req.UserInfo.Extra))
	for k, v := range req.UserInfo.Extra {
		extra[k] = v
	}
	tr := TrialRequest{Request: req, Source: source}
	var is bool
	if tr.Agent, is = agents.AgentOf(req.UserInfo.Username, req.UserInfo.Groups, extra); !is {
		tr.NotJudged = notAnAgent
	}
	return tr
}

// documents cuts a file into JSON documents.
func documents(in io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		limited := &io.LimitedReader{R: in, N: maxReviewFileBytes + 1}
		br := bufio.NewReader(limited)
		next := yamlDocuments(br)
		if startsWithBrace(br) {
			next = jsonDocuments(br)
		}
		for {
			doc, final, err := next()
			switch {
			case limited.N == 0:
				yield(nil, fmt.Errorf("the file has more than %d bytes", maxReviewFileBytes))
				return
			case errors.Is(err, io.EOF):
				return
			case err == nil && len(bytes.TrimSpace(doc)) == 0, err == nil && string(doc) == "null":
				continue
			}
			if !yield(doc, err) || final {
				return
			}
		}
	}
}

// startsWithBrace reports whether the first byte that is no white space opens a JSON object.
func startsWithBrace(br *bufio.Reader) bool {
	for {
		b, err := br.ReadByte()
		if err != nil {
			return false
		}
		switch b {
		case ' ', '\t', '\r', '\n':
		default:
			_ = br.UnreadByte() // just read
			return b == '{'
		}
	}
}

// jsonDocuments gives the next document; final says that none can be found after it.
func jsonDocuments(r io.Reader) func() (doc []byte, final bool, err error) {
	dec := json.NewDecoder(r)
	return func() ([]byte, bool, error) {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if err == nil || errors.Is(err, io.EOF) {
			return raw, false, err
		}
		return nil, true, errors.New("not JSON") // the cause may quote a byte of it
	}
}

func yamlDocuments(br *bufio.Reader) func() (doc []byte, final bool, err error) {
	docs := utilyaml.NewYAMLReader(br)
	return func() ([]byte, bool, error) {
		raw, err := docs.Read()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil, true, io.EOF
			}
			return nil, true, errors.New("can't be read to its end")
		}
		if len(raw) > maxReviewBytes {
			return nil, false, fmt.Errorf("more than %d bytes", maxReviewBytes)
		}
		doc, err := yaml.YAMLToJSONStrict(raw)
		if err != nil {
			return nil, false, errors.New("not YAML") // the cause may quote it
		}
		return doc, false, nil
	}
}

// reviewsIn hands on the reviews of a document: one, or those of a List. It
// reports whether to go on. An error concerns the document as a whole.
func reviewsIn(doc []byte, each func(*admissionv1.AdmissionRequest, error) bool) (more bool, err error) {
	var list struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	twice, err := kjson.UnmarshalStrict(doc, &list, kjson.DisallowDuplicateFields)
	if err != nil {
		return false, errors.New("no AdmissionReview and no List")
	}
	items := []json.RawMessage{doc}
	if list.Kind == "List" {
		if len(twice) > 0 {
			return false, errors.New("a List with fields given twice")
		}
		items = list.Items
	}
	for _, item := range items {
		var req *admissionv1.AdmissionRequest
		err := fmt.Errorf("a review of more than %d bytes", maxReviewBytes)
		if len(item) <= maxReviewBytes {
			var rev *admissionreview.Review
			if rev, err = admissionreview.Parse(item); err == nil {
				req = rev.Request
			}
		}
		if !each(req, err) {
			return false, nil
		}
	}
	return true, nil
}
