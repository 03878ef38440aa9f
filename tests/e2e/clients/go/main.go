// Runs jobs with the official Go SDK.
//
// Standard input: {"base_url", "api_key", "jobs": [{"name", "model", "stream", …}]}.
// Standard output: one JSON object, name -> what the SDK gave its user.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
)

type settings struct {
	BaseURL string `json:"base_url"`
	APIKey  string `json:"api_key"`
	Jobs    []job  `json:"jobs"`
}

type job struct {
	Name   string         `json:"name"`
	Model  string         `json:"model"`
	Stream bool           `json:"stream"`
	APIKey string         `json:"api_key"`
	Params map[string]any `json:"params"`
}

type result struct {
	Text         string    `json:"text"`
	DeltaText    string    `json:"delta_text"`
	FinishReason string    `json:"finish_reason"`
	Usage        *usage    `json:"usage"`
	Model        string    `json:"model"`
	Chunks       int       `json:"chunks"`
	Error        *apiError `json:"error,omitempty"`
}

type usage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	TotalTokens      int64 `json:"total_tokens"`
}

type apiError struct {
	Class   string `json:"class"`
	Status  int    `json:"status,omitempty"`
	Message string `json:"message"`
	Type    string `json:"type"`
	Param   string `json:"param,omitempty"`
	Code    string `json:"code,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var given settings
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		return err
	}
	results := map[string]result{}
	for _, one := range given.Jobs {
		key := given.APIKey
		if one.APIKey != "" {
			key = one.APIKey
		}
		client := openai.NewClient(option.WithAPIKey(key), option.WithBaseURL(given.BaseURL), option.WithMaxRetries(0))
		params := openai.CompletionNewParams{
			Model:  openai.CompletionNewParamsModel(one.Model),
			Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("Write a haiku about dawn")},
		}
		var options []option.RequestOption
		for name, value := range one.Params {
			options = append(options, option.WithJSONSet(name, value))
		}
		if one.Stream {
			results[one.Name] = stream(client, params, options)
		} else {
			results[one.Name] = complete(client, params, options)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

func complete(client openai.Client, params openai.CompletionNewParams, options []option.RequestOption) result {
	resp, err := client.Completions.New(context.Background(), params, options...)
	if err != nil {
		return result{Error: plainError(err)}
	}
	return result{
		Text:         resp.Choices[0].Text,
		FinishReason: string(resp.Choices[0].FinishReason),
		Usage:        plainUsage(resp.Usage),
		Model:        resp.Model,
	}
}

func stream(client openai.Client, params openai.CompletionNewParams, options []option.RequestOption) result {
	var out result
	st := client.Completions.NewStreaming(context.Background(), params, options...)
	defer st.Close()
	for st.Next() {
		chunk := st.Current()
		out.Chunks++
		out.Model = chunk.Model
		if chunk.JSON.Usage.Valid() {
			out.Usage = plainUsage(chunk.Usage)
		}
		for _, ch := range chunk.Choices {
			// As the API's documentation reads a chunk, delta first and then text. In this SDK's types a field
			// that they do not know is raw JSON.
			var delta struct {
				Text *string `json:"text"`
			}
			if raw := ch.JSON.ExtraFields["delta"].Raw(); raw != "" {
				if err := json.Unmarshal([]byte(raw), &delta); err != nil {
					out.Error = plainError(err)
					return out
				}
			}
			if delta.Text != nil {
				out.Text += *delta.Text
				out.DeltaText += *delta.Text
			} else {
				out.Text += ch.Text
			}
			if ch.FinishReason != "" {
				out.FinishReason = string(ch.FinishReason)
			}
		}
	}
	if err := st.Err(); err != nil {
		out.Error = plainError(err)
	}
	return out
}

func plainUsage(given openai.CompletionUsage) *usage {
	return &usage{given.PromptTokens, given.CompletionTokens, given.TotalTokens}
}

func plainError(err error) *apiError {
	var refused *openai.Error
	if errors.As(err, &refused) {
		return &apiError{"Error", refused.StatusCode, refused.Message, refused.Type, refused.Param, refused.Code}
	}
	var broken *ssestream.StreamError
	if errors.As(err, &broken) {
		out := struct {
			Error apiError `json:"error"`
		}{}
		if json.Unmarshal(broken.Event.Data, &out) == nil {
			out.Error.Class = "StreamError"
			return &out.Error
		}
	}
	return &apiError{Class: fmt.Sprintf("%T", err), Message: err.Error()}
}
