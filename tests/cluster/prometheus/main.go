// Reads metrics as Prometheus does, and lints them; prints each family with its type and how many there are of it.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	fail(err)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	fail(err)
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	fail(err)
	for _, problem := range problems {
		fail(fmt.Errorf("%s: %s", problem.Metric, problem.Text))
	}
	for name, family := range families {
		fmt.Println(name, family.GetType(), len(family.GetMetric()))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
