package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/penstock/penstock/client"
)

// recordPrinter writes consumed records in the form that -o asks for.
type recordPrinter interface {
	print(r *client.Record) error
}

// newRecordPrinter reads -o: json, value, or a Go template over the fields of a record.
func newRecordPrinter(form string, w *bufio.Writer) (recordPrinter, error) {
	switch form {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return &jsonPrinter{enc: enc}, nil
	case "value":
		return &valuePrinter{w: w}, nil
	default:
		t, err := template.New("record").Option("missingkey=error").Parse(form)
		if err != nil {
			return nil, usagef("--output is neither json nor value nor a template: %v", err)
		}
		if !isTemplate(form) {
			return nil, usagef("--output is %q, want json, value or a template such as '{{.Offset}} {{.Value}}'", form)
		}
		return &templatePrinter{w: w, t: t}, nil
	}
}

// isTemplate tells a template from a misspelt word: without an action every
// record would print the same.
func isTemplate(form string) bool {
	for i := 0; i+1 < len(form); i++ {
		if form[i] == '{' && form[i+1] == '{' {
			return true
		}
	}
	return false
}

// jsonRecord is one line of `consume -o json`. Bytes that are not UTF-8 come as
// base64 under another name; what is absent (no key, a tombstone) is null.
type jsonRecord struct {
	Topic       string       `json:"topic"`
	Partition   int32        `json:"partition"`
	Offset      int64        `json:"offset"`
	Timestamp   string       `json:"timestamp"`
	Key         *string      `json:"key,omitempty"`
	KeyBase64   string       `json:"key_base64,omitempty"`
	Value       *string      `json:"value,omitempty"`
	ValueBase64 string       `json:"value_base64,omitempty"`
	Headers     []jsonHeader `json:"headers,omitempty"`
}

type jsonHeader struct {
	Key         string  `json:"key"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 string  `json:"value_base64,omitempty"`
}

type jsonPrinter struct{ enc *json.Encoder }

func (p *jsonPrinter) print(r *client.Record) error {
	out := jsonRecord{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset,
		Timestamp: r.Timestamp.UTC().Format(time.RFC3339Nano),
	}
	out.Key, out.KeyBase64 = text(r.Key)
	out.Value, out.ValueBase64 = text(r.Value)
	for _, h := range r.Headers {
		jh := jsonHeader{Key: h.Key}
		jh.Value, jh.ValueBase64 = text(h.Value)
		out.Headers = append(out.Headers, jh)
	}
	return p.enc.Encode(out)
}

func text(b []byte) (plain *string, encoded string) {
	switch {
	case b == nil:
		return nil, ""
	case utf8.Valid(b):
		s := string(b)
		return &s, ""
	default:
		return nil, base64.StdEncoding.EncodeToString(b)
	}
}

type valuePrinter struct{ w *bufio.Writer }

func (p *valuePrinter) print(r *client.Record) error {
	if _, err := p.w.Write(r.Value); err != nil {
		return err
	}
	return p.w.WriteByte('\n')
}

// templateRecord is what a template sees: text instead of bytes.
type templateRecord struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp string
	Key       string
	Value     string
	Headers   map[string]string
}

type templatePrinter struct {
	w io.Writer
	t *template.Template
}

func (p *templatePrinter) print(r *client.Record) error {
	view := templateRecord{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset,
		Timestamp: r.Timestamp.UTC().Format(time.RFC3339Nano),
		Key:       string(r.Key), Value: string(r.Value), Headers: make(map[string]string, len(r.Headers)),
	}
	for _, h := range r.Headers {
		view.Headers[h.Key] = string(h.Value)
	}
	if err := p.t.Execute(p.w, view); err != nil {
		return usagef("--output: %v", err)
	}
	_, err := fmt.Fprintln(p.w)
	return err
}
