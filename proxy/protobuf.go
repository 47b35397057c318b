package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	runtimejson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// maxTranscodedBytes bounds an answer that is made protobuf again. It is held
// whole, twice.
const maxTranscodedBytes = 16 << 20

// Kubernetes' own kinds, of the version that this is built with. Strict: a field
// that it doesn't know would be lost on the way.
var (
	ownKinds = func() *runtime.Scheme {
		known := runtime.NewScheme()
		utilruntime.Must(scheme.AddToScheme(known))
		utilruntime.Must(metav1.AddMetaToScheme(known))
		metav1.AddToGroupVersion(known, metav1.Unversioned)
		return known
	}()
	strictJSON = runtimejson.NewSerializerWithOptions(runtimejson.DefaultMetaFactory, ownKinds, ownKinds, runtimejson.SerializerOptions{Strict: true})
	asProtobuf = protobuf.NewSerializer(ownKinds, ownKinds)
)

// protobufOnly reports whether an Accept header that holds no JSON asks for
// protobuf, with the media types' parameters for JSON in its place.
func protobufOnly(values []string) (accept string, ok bool) {
	for v := range strings.SplitSeq(strings.Join(values, ","), ",") {
		mt, params, err := mime.ParseMediaType(v)
		if err != nil || mt != typeProtobuf || params["stream"] != "" || params["as"] == "Table" {
			continue
		}
		return mime.FormatMediaType(typeJSON, params), true
	}
	return "", false
}

// transcode makes the answer, masked JSON by now, protobuf. What can't be made
// that is refused where nothing was changed, and passed in JSON where it was.
func (p *Proxy) transcode(resp *http.Response) error {
	mt, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || mt != typeJSON || resp.Request.Method == http.MethodHead {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTranscodedBytes+1))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxTranscodedBytes && resp.Request.Method != http.MethodGet {
		resp.Body = readCloser{io.MultiReader(bytes.NewReader(body), resp.Body), resp.Body}
		return nil
	}
	_ = resp.Body.Close() // what is wanted of it has been read
	out, contentType := body, typeJSON
	encoded, err := toProtobuf(body)
	switch {
	case err == nil:
		out, contentType = encoded, typeProtobuf
	case resp.Request.Method == http.MethodGet && resp.StatusCode < http.StatusBadRequest:
		p.log.Info("an answer can't be made protobuf", "path", resp.Request.URL.Path, "reason", err)
		if out, err = json.Marshal(statusOf(notAcceptable())); err != nil {
			return fmt.Errorf("encode status: %w", err)
		}
		resp.StatusCode, resp.Status = http.StatusNotAcceptable, strconv.Itoa(http.StatusNotAcceptable)+" "+http.StatusText(http.StatusNotAcceptable)
	}
	resp.Header.Set("Content-Type", contentType)
	resp.Header.Set("Content-Length", strconv.Itoa(len(out)))
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(out)), int64(len(out))
	return nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// toProtobuf makes an object of JSON the same in protobuf.
func toProtobuf(body []byte) ([]byte, error) {
	if len(body) > maxTranscodedBytes {
		return nil, errors.New("it is too large")
	}
	obj, _, err := strictJSON.Decode(body, nil, nil)
	if err != nil {
		return nil, errors.New("its kind or a field of it isn't known") // the error may quote it
	}
	var out bytes.Buffer
	if err := asProtobuf.Encode(obj, &out); err != nil {
		return nil, errors.New("its kind has no protobuf")
	}
	return out.Bytes(), nil
}
