// Errors in OpenAI's shape.
export class ApiError extends Error {
  constructor(status, message, { type = "invalid_request_error", param = null, code = null } = {}) {
    super(message);
    this.status = status;
    this.body = { error: { message, type, param, code } };
  }
}

export function badRequest(message, param = null, code = null) {
  return new ApiError(400, message, { param, code });
}
